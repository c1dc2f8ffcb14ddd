package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
)

var cacheChecks = []check{
	{"shared informer: handlers, lister, index, resync", informed},
	{"work queue: a controller that retries until its state is there", controlled},
	{"leader election: one leader, and a successor", elected},
	{"shared informer: goes on after the server restarted, misses nothing", reconnected},
}

// seen counts what handlers are told.
type seen struct{ added, updated, resynced, deleted atomic.Int64 }

func (s *seen) handlers() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { s.added.Add(1) },
		DeleteFunc: func(any) { s.deleted.Add(1) },
		UpdateFunc: func(old, now any) {
			if old.(*corev1.ConfigMap).ResourceVersion == now.(*corev1.ConfigMap).ResourceVersion {
				s.resynced.Add(1)
			} else {
				s.updated.Add(1)
			}
		},
	}
}

func (s *seen) String() string {
	return fmt.Sprintf("added %d, updated %d, resynced %d, deleted %d", s.added.Load(), s.updated.Load(), s.resynced.Load(), s.deleted.Load())
}

// factory makes informers of the objects one check made.
func factory(w *world, resync time.Duration, madeBy string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(w.typed, resync, informers.WithNamespace(w.namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "made-by=" + madeBy }))
}

func informed(ctx context.Context, w *world) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	labels := map[string]string{"made-by": "informed"}
	if _, err := maps.Create(ctx, configMap("before", labels, map[string]string{"colour": "red"}), metav1.CreateOptions{}); err != nil {
		return err
	}
	f := factory(w, time.Second, "informed")
	informer := f.Core().V1().ConfigMaps().Informer()
	err := informer.AddIndexers(cache.Indexers{"colour": func(o any) ([]string, error) {
		return []string{o.(*corev1.ConfigMap).Data["colour"]}, nil
	}})
	if err != nil {
		return err
	}
	var counts seen
	if _, err = informer.AddEventHandler(counts.handlers()); err != nil {
		return err
	}
	f.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("the cache did not fill")
	}
	made, err := maps.Create(ctx, configMap("after", labels, map[string]string{"colour": "red"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Data["colour"] = "blue"
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err = maps.Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
		return err
	}
	err = until(ctx, "all events and a resync", 15, func(context.Context) (bool, error) {
		return counts.added.Load() == 2 && counts.updated.Load() == 1 && counts.deleted.Load() == 1 && counts.resynced.Load() > 0, nil
	})
	if err != nil {
		return fmt.Errorf("%w; %s", err, &counts)
	}
	blue, err := informer.GetIndexer().ByIndex("colour", "blue")
	if err != nil {
		return err
	}
	if _, err = f.Core().V1().ConfigMaps().Lister().ConfigMaps(w.namespace).Get("after"); err != nil {
		return err
	}
	return expect(len(blue) == 1, "the index holds %d", len(blue))
}

func controlled(ctx context.Context, w *world) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	f := factory(w, 0, "controlled")
	informer := f.Core().V1().ConfigMaps().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { queue.Add(o.(*corev1.ConfigMap).Name) }})
	if err != nil {
		return err
	}
	f.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("the cache did not fill")
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	defer queue.ShutDown()
	for range 3 {
		workers.Go(func() {
			for work(ctx, w, queue) {
			}
		})
	}
	const objects = 20
	for i := range objects {
		m := configMap(fmt.Sprint("wish-", i), map[string]string{"made-by": "controlled"}, nil)
		if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return until(ctx, "a Secret for each ConfigMap", 20, func(ctx context.Context) (bool, error) {
		list, err := w.typed.CoreV1().Secrets(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "made-by=controlled"})
		return err == nil && len(list.Items) == objects, err
	})
}

// work takes one key, makes its Secret, and fails the first time round so that the queue has to bring it back.
func work(ctx context.Context, w *world, queue workqueue.TypedRateLimitingInterface[string]) bool {
	name, closed := queue.Get()
	if closed {
		return false
	}
	defer queue.Done(name)
	if queue.NumRequeues(name) == 0 {
		queue.AddRateLimited(name)
		return true
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"made-by": "controlled"}}}
	if _, err := w.typed.CoreV1().Secrets(w.namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		queue.AddRateLimited(name)
		return true
	}
	queue.Forget(name)
	return true
}

func elected(ctx context.Context, w *world) error {
	leaders := make(chan string, 4)
	candidate := func(ctx context.Context, id string) {
		lock := &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: w.namespace, Name: "leader"},
			Client:     w.typed.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: id},
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true,
			LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leaders <- id },
				OnStoppedLeading: func() {},
			},
		})
	}
	first, resign := context.WithCancel(ctx)
	second, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	defer resign()
	running.Go(func() { candidate(first, "first") })
	if err := leads(ctx, leaders, "first"); err != nil {
		return err
	}
	running.Go(func() { candidate(second, "second") })
	select {
	case id := <-leaders:
		return fmt.Errorf("%s leads beside the first", id)
	case <-time.After(time.Second):
	}
	resign()
	if err := leads(ctx, leaders, "second"); err != nil {
		return err
	}
	lease, err := w.typed.CoordinationV1().Leases(w.namespace).Get(ctx, "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return expect(*lease.Spec.HolderIdentity == "second" && *lease.Spec.LeaseTransitions >= 1, "the Lease says %v", lease.Spec)
}

func leads(ctx context.Context, leaders <-chan string, want string) error {
	select {
	case id := <-leaders:
		return expect(id == want, "%s leads, not %s", id, want)
	case <-time.After(15 * time.Second):
		return fmt.Errorf("%s never led", want)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func reconnected(ctx context.Context, w *world) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	labels := map[string]string{"made-by": "reconnected"}
	f := factory(w, 0, "reconnected")
	informer := f.Core().V1().ConfigMaps().Informer()
	var counts seen
	if _, err := informer.AddEventHandler(counts.handlers()); err != nil {
		return err
	}
	f.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("the cache did not fill")
	}
	for round := range 2 {
		for i := range 5 {
			m := configMap(fmt.Sprintf("round-%d-%d", round, i), labels, nil)
			if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
		if round == 0 {
			// At once: the last events may still be on their way.
			if err := w.restart(); err != nil {
				return err
			}
			if err := maps.Delete(ctx, "round-0-0", metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
	}
	err := until(ctx, "ten added, one deleted, each told once", 45, func(context.Context) (bool, error) {
		return counts.added.Load() == 10 && counts.deleted.Load() == 1 && len(informer.GetStore().List()) == 9, nil
	})
	if err != nil {
		return fmt.Errorf("%w; %s; %d in the cache", err, &counts, len(informer.GetStore().List()))
	}
	return nil
}
