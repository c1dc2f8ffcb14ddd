package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
)

var objectChecks = []check{
	{"typed client: create, get, update, patch, delete over JSON", typedAs("application/json")},
	{"typed client: create, get, update, patch, delete over protobuf", typedAs("application/vnd.kubernetes.protobuf")},
	{"typed client: conflicts are retried, nothing is lost", conflicts},
	{"typed client: a watch sees added, modified, deleted", watched},
	{"pager: a list in chunks, each object once", chunks},
	{"dynamic client: create, list, patch, watch, delete", dynamically},
	{"discovery and RESTMapper", discovered},
	{"scale client", scaled},
	{"event recorder: events are written and counted up", recorded},
	{"service account token: reads what a role grants, no more", token},
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func typedAs(contentType string) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		config := rest.CopyConfig(w.config)
		config.ContentType = contentType
		config.AcceptContentTypes = contentType
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		return lifecycle(ctx, client.CoreV1().ConfigMaps(w.namespace))
	}
}

func lifecycle(ctx context.Context, maps typedcorev1.ConfigMapInterface) error {
	made, err := maps.Create(ctx, configMap("typed", nil, map[string]string{"a": "1"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err = maps.Create(ctx, configMap("typed", nil, nil), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("a second create should say AlreadyExists, and said: %v", err)
	}
	made.Data["b"] = "2"
	changed, err := maps.Update(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("an update of an old version should say Conflict, and said: %v", err)
	}
	patches := []struct {
		kind types.PatchType
		body string
	}{
		{types.JSONPatchType, `[{"op":"add","path":"/data/c","value":"3"}]`},
		{types.MergePatchType, `{"data":{"a":null,"d":"4"}}`},
		{types.StrategicMergePatchType, `{"metadata":{"annotations":{"e":"5"}}}`},
	}
	for _, p := range patches {
		if changed, err = maps.Patch(ctx, "typed", p.kind, []byte(p.body), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("%s: %w", p.kind, err)
		}
	}
	want := map[string]string{"b": "2", "c": "3", "d": "4"}
	read, err := maps.Get(ctx, "typed", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if fmt.Sprint(read.Data) != fmt.Sprint(want) || read.Annotations["e"] != "5" || read.ResourceVersion != changed.ResourceVersion {
		return fmt.Errorf("after the patches it holds %v %v", read.Data, read.Annotations)
	}
	stale := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &made.ResourceVersion}}
	if err = maps.Delete(ctx, "typed", stale); !apierrors.IsConflict(err) {
		return fmt.Errorf("a delete of an old version should say Conflict, and said: %v", err)
	}
	if err = maps.Delete(ctx, "typed", metav1.DeleteOptions{}); err != nil {
		return err
	}
	_, err = maps.Get(ctx, "typed", metav1.GetOptions{})
	return expect(apierrors.IsNotFound(err), "after the delete a get says: %v", err)
}

func conflicts(ctx context.Context, w *world) error {
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	if _, err := maps.Create(ctx, configMap("contended", nil, nil), metav1.CreateOptions{}); err != nil {
		return err
	}
	const writers = 8
	failures := make([]error, writers)
	backoff := retry.DefaultBackoff
	backoff.Steps = 50
	backoff.Factor = 1
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			failures[i] = retry.RetryOnConflict(backoff, func() error {
				m, err := maps.Get(ctx, "contended", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if m.Data == nil {
					m.Data = map[string]string{}
				}
				m.Data[fmt.Sprint("writer-", i)] = "was here"
				_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
				return err
			})
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	m, err := maps.Get(ctx, "contended", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return expect(len(m.Data) == writers, "%d of %d writes are there", len(m.Data), writers)
}

func watched(ctx context.Context, w *world) error {
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	labels := map[string]string{"made-by": "watched"}
	before, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "made-by=watched"})
	if err != nil {
		return err
	}
	stream, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "made-by=watched", ResourceVersion: before.ResourceVersion})
	if err != nil {
		return err
	}
	defer stream.Stop()
	made, err := maps.Create(ctx, configMap("watched", labels, nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Data = map[string]string{"a": "1"}
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err = maps.Delete(ctx, "watched", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return sees(ctx, stream, watch.Added, watch.Modified, watch.Deleted)
}

func sees(ctx context.Context, stream watch.Interface, want ...watch.EventType) error {
	for _, w := range want {
		select {
		case event, open := <-stream.ResultChan():
			if !open || event.Type != w {
				return fmt.Errorf("the watch should say %s, and said %q: %v", w, event.Type, event.Object)
			}
		case <-ctx.Done():
			return fmt.Errorf("the watch never said %s", w)
		}
	}
	return nil
}

func chunks(ctx context.Context, w *world) error {
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	labels := map[string]string{"made-by": "chunks"}
	for i := range 25 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("chunk-%02d", i), labels, nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	pages := 0
	p := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		pages++
		return maps.List(ctx, options)
	})
	p.PageSize = 10
	var names []string
	err := p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "made-by=chunks"}, func(o runtime.Object) error {
		names = append(names, o.(*corev1.ConfigMap).Name)
		return nil
	})
	if err != nil {
		return err
	}
	if pages != 3 || len(names) != 25 || !slices.IsSorted(names) {
		return fmt.Errorf("%d objects in %d pages: %v", len(names), pages, names)
	}
	return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "made-by=chunks"})
}

func dynamically(ctx context.Context, w *world) error {
	maps := w.dynamic.Resource(configMaps).Namespace(w.namespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"generateName": "dynamic-", "labels": map[string]any{"made-by": "dynamic"}},
		"data":     map[string]any{"a": "1"},
	}}
	made, err := maps.Create(ctx, object, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return err
	}
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "made-by=dynamic"})
	if err != nil {
		return err
	}
	if len(list.Items) != 1 || list.Items[0].GetName() != made.GetName() {
		return fmt.Errorf("the list holds %d objects", len(list.Items))
	}
	stream, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "made-by=dynamic", ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		return err
	}
	defer stream.Stop()
	patched, err := maps.Patch(ctx, made.GetName(), types.MergePatchType, []byte(`{"data":{"b":"2"}}`), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if b, _, _ := unstructured.NestedString(patched.Object, "data", "b"); b != "2" {
		return fmt.Errorf("after the patch it holds %v", patched.Object["data"])
	}
	if err = maps.Delete(ctx, made.GetName(), metav1.DeleteOptions{}); err != nil {
		return err
	}
	return sees(ctx, stream, watch.Modified, watch.Deleted)
}

func discovered(_ context.Context, w *world) error {
	groups, err := restmapper.GetAPIGroupResources(w.typed.Discovery())
	if err != nil {
		return err
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	for kind, want := range map[schema.GroupKind]string{
		{Kind: "Pod"}:                                 "pods",
		{Group: "apps", Kind: "Deployment"}:           "deployments",
		{Group: "networking.k8s.io", Kind: "Ingress"}: "ingresses",
	} {
		mapping, err := mapper.RESTMapping(kind)
		if err != nil {
			return err
		}
		scoped := mapping.Scope.Name() == meta.RESTScopeNameNamespace
		if mapping.Resource.Resource != want || !scoped {
			return fmt.Errorf("%v is served as %v", kind, mapping.Resource)
		}
	}
	version, err := w.typed.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	return expect(version.Major == "1" && version.Minor == "36", "the server's version is %s.%s", version.Major, version.Minor)
}

func scaled(ctx context.Context, w *world) error {
	replicas := int32(0)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "scaled"}}}
	template.Spec.Containers = []corev1.Container{{Name: "c", Image: w.image}}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "scaled"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Template: template,
		Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
	}}
	sets := w.typed.AppsV1().ReplicaSets(w.namespace)
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		return err
	}
	groups, err := restmapper.GetAPIGroupResources(w.typed.Discovery())
	if err != nil {
		return err
	}
	resolver := scale.NewDiscoveryScaleKindResolver(w.typed.Discovery())
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	client, err := scale.NewForConfig(w.config, mapper, dynamic.LegacyAPIPathResolverFunc, resolver)
	if err != nil {
		return err
	}
	resource := schema.GroupResource{Group: "apps", Resource: "replicasets"}
	now, err := client.Scales(w.namespace).Get(ctx, resource, "scaled", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if now.Spec.Replicas != 0 || now.Status.Selector != "app=scaled" {
		return fmt.Errorf("the scale says %v %v", now.Spec, now.Status)
	}
	now.Spec.Replicas = 2
	if _, err = client.Scales(w.namespace).Update(ctx, resource, now, metav1.UpdateOptions{}); err != nil {
		return err
	}
	err = until(ctx, "two pods of the scaled set", 15, func(ctx context.Context) (bool, error) {
		s, err := sets.Get(ctx, "scaled", metav1.GetOptions{})
		return err == nil && s.Status.Replicas == 2, err
	})
	if err != nil {
		return err
	}
	foreground := metav1.DeletePropagationForeground
	return sets.Delete(ctx, "scaled", metav1.DeleteOptions{PropagationPolicy: &foreground})
}

func recorded(ctx context.Context, w *world) error {
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	about, err := maps.Create(ctx, configMap("recorded", nil, nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	events := w.typed.CoreV1().Events(w.namespace)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: events})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "client-go-check"})
	for range 3 {
		recorder.Event(about, corev1.EventTypeNormal, "Checked", "it was looked at")
	}
	return until(ctx, "one event with count 3", 15, func(ctx context.Context) (bool, error) {
		list, err := events.List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=recorded,reason=Checked"})
		return err == nil && len(list.Items) == 1 && list.Items[0].Count == 3, err
	})
}

func token(ctx context.Context, w *world) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}
	accounts := w.typed.CoreV1().ServiceAccounts(w.namespace)
	if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := grant(ctx, w, "reader"); err != nil {
		return err
	}
	request, err := accounts.CreateToken(ctx, "reader", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	config := rest.AnonymousClientConfig(w.config)
	config.BearerToken = request.Status.Token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err = client.CoreV1().ConfigMaps(w.namespace).List(ctx, metav1.ListOptions{}); err != nil {
		return err
	}
	_, err = client.CoreV1().Secrets(w.namespace).List(ctx, metav1.ListOptions{})
	return expect(apierrors.IsForbidden(err), "reading secrets should be forbidden, and said: %v", err)
}

// grant lets a service account of the namespace read its ConfigMaps.
func grant(ctx context.Context, w *world, account string) error {
	const role = "reads-configmaps"
	rules := []rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}
	_, err := w.typed.RbacV1().Roles(w.namespace).
		Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: rules}, metav1.CreateOptions{})
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: account, Namespace: w.namespace}},
	}
	_, bound := w.typed.RbacV1().RoleBindings(w.namespace).Create(ctx, binding, metav1.CreateOptions{})
	return errors.Join(err, bound)
}
