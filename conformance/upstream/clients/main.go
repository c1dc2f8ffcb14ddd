// Command clients checks a cluster with client-go, as programs written with it use it: one JSON line a check.
//
// usage: clients KUBECONFIG IMAGE [FILTER]
// A check may ask whoever runs this to restart the API server: it prints {"ask":"restart"} and reads one line from
// standard input, "done" or why not.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// world is what checks share: clients, and a namespace of their own.
type world struct {
	config    *rest.Config
	typed     *kubernetes.Clientset
	dynamic   *dynamic.DynamicClient
	namespace string
	image     string
	answers   *bufio.Scanner
}

type check struct {
	name string
	run  func(context.Context, *world) error
}

// skipped is why a check has nothing to say.
type skipped string

func (s skipped) Error() string { return string(s) }

type outcome struct {
	Check   string  `json:"check"`
	Outcome string  `json:"outcome"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: clients KUBECONFIG IMAGE [FILTER]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], strings.Join(os.Args[3:], " ")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kubeconfig, image, filter string) error {
	w, err := connect(kubeconfig, image)
	if err != nil {
		return err
	}
	defer w.typed.CoreV1().Namespaces().Delete(context.Background(), w.namespace, metav1.DeleteOptions{})
	for _, checks := range [][]check{objectChecks, applyChecks, cacheChecks, streamChecks} {
		for _, c := range checks {
			if strings.Contains(c.name, filter) {
				emit(c.judge(w))
			}
		}
	}
	return nil
}

func connect(kubeconfig, image string) (*world, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	w := &world{config: config, image: image, answers: bufio.NewScanner(os.Stdin)}
	if w.typed, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if w.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "client-go-"}}
	made, err := w.typed.CoreV1().Namespaces().Create(context.Background(), namespace, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	w.namespace = made.Name
	return w, nil
}

// judge runs the check; a panic is a failure of this check alone.
func (c check) judge(w *world) (o outcome) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	o = outcome{Check: c.name, Outcome: "ok"}
	defer func() {
		if p := recover(); p != nil {
			o.Outcome, o.Error = "failed", fmt.Sprint("panic: ", p)
		}
		o.Seconds = time.Since(begun).Seconds()
	}()
	if err := c.run(ctx, w); err != nil {
		o.Outcome, o.Error = "failed", err.Error()
		if why := skipped(""); errors.As(err, &why) {
			o.Outcome = "skipped"
		}
	}
	return o
}

func emit(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

// restart asks for a restart of the API server and returns when it is up again.
func (w *world) restart() error {
	emit(map[string]string{"ask": "restart"})
	if !w.answers.Scan() {
		return errors.New("nobody answered the wish for a restart")
	}
	if answer := w.answers.Text(); answer != "done" {
		return skipped(answer)
	}
	return nil
}

// until waits for a state that others bring about.
func until(ctx context.Context, what string, seconds int, ready func(context.Context) (bool, error)) error {
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Duration(seconds)*time.Second, true, ready)
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

func expect(holds bool, format string, args ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func configMap(name string, labels, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: data}
}
