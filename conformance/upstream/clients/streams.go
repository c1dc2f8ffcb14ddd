package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

var streamChecks = []check{
	{"pod: runs", podRuns},
	{"pod: logs, and logs that follow", logs},
	{"exec over WebSocket: input, output, exit code", execBy(webSocket)},
	{"exec over SPDY: input, output, exit code", execBy(overSPDY)},
	{"exec with fallback from WebSocket to SPDY", execBy(fallback)},
	{"port-forward over SPDY", forwardBy(spdyDialer)},
	{"port-forward over WebSocket", forwardBy(webSocketDialer)},
	{"pod: eviction", evicted},
}

const podName = "streams"

// script prints a line a tenth of a second and serves one file over HTTP.
const script = `mkdir -p /tmp/www && echo forwarded > /tmp/www/index.html
busybox httpd -p 8080 -h /tmp/www
i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done`

func podRuns(ctx context.Context, w *world) error {
	grace := int64(1)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers:                    []corev1.Container{{Name: "main", Image: w.image, Command: []string{"sh", "-c", script}}},
	}}
	pods := w.typed.CoreV1().Pods(w.namespace)
	// The namespace's service account is made by a controller.
	err := until(ctx, "the pod to be admitted", 15, func(ctx context.Context) (bool, error) {
		_, err := pods.Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	return until(ctx, "the pod to be Ready", 60, func(ctx context.Context) (bool, error) {
		p, err := pods.Get(ctx, podName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
}

func logs(ctx context.Context, w *world) error {
	pods := w.typed.CoreV1().Pods(w.namespace)
	stream, err := pods.GetLogs(podName, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	for i := range 30 {
		if !lines.Scan() || lines.Text() != fmt.Sprint("line ", i) {
			return fmt.Errorf("line %d is %q (%v)", i, lines.Text(), lines.Err())
		}
	}
	tail := int64(2)
	text, err := pods.GetLogs(podName, &corev1.PodLogOptions{TailLines: &tail, Timestamps: true}).DoRaw(ctx)
	if err != nil {
		return err
	}
	// One or two lines may be written between finding the place and reading on from there.
	last := strings.Split(strings.TrimSpace(string(text)), "\n")
	return expect(len(last) <= 4 && strings.Contains(last[0], "Z line "), "the last two lines are %q", text)
}

func overSPDY(c *rest.Config, at *rest.Request) (remotecommand.Executor, error) {
	return remotecommand.NewSPDYExecutor(c, http.MethodPost, at.URL())
}

func webSocket(c *rest.Config, at *rest.Request) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(c, http.MethodGet, at.URL().String())
}

func fallback(c *rest.Config, at *rest.Request) (remotecommand.Executor, error) {
	first, err := webSocket(c, at)
	if err != nil {
		return nil, err
	}
	second, err := overSPDY(c, at)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(first, second, httpstream.IsUpgradeFailure)
}

func execBy(transport func(*rest.Config, *rest.Request) (remotecommand.Executor, error)) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		run := func(input string, command ...string) (string, string, error) {
			request := w.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(w.namespace).Name(podName).SubResource("exec").
				VersionedParams(&corev1.PodExecOptions{Command: command, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
			executor, err := transport(w.config, request)
			if err != nil {
				return "", "", err
			}
			var out, errors bytes.Buffer
			err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errors})
			return out.String(), errors.String(), err
		}
		big := strings.Repeat("a line that is sent there and back\n", 20000)
		out, _, err := run(big, "cat")
		if err != nil {
			return err
		}
		if out != big {
			return fmt.Errorf("%d bytes were sent, %d came back", len(big), len(out))
		}
		out, failures, err := run("", "sh", "-c", "echo out; echo err >&2; exit 7")
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 7 || out != "out\n" || failures != "err\n" {
			return fmt.Errorf("out %q, err %q, %v", out, failures, err)
		}
		return nil
	}
}

func spdyDialer(w *world, at *rest.Request) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(w.config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, at.URL()), nil
}

func webSocketDialer(w *world, at *rest.Request) (httpstream.Dialer, error) {
	return portforward.NewSPDYOverWebsocketDialer(at.URL(), w.config)
}

func forwardBy(dialer func(*world, *rest.Request) (httpstream.Dialer, error)) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		request := w.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(w.namespace).Name(podName).SubResource("portforward")
		dial, err := dialer(w, request)
		if err != nil {
			return err
		}
		stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		forwarder, err := portforward.New(dial, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			return err
		}
		go func() { ended <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-ended:
			return fmt.Errorf("it ended before it was ready: %w", err)
		case <-ctx.Done():
			return errors.New("it was never ready")
		}
		defer close(stop)
		ports, err := forwarder.GetPorts()
		if err != nil {
			return err
		}
		client := http.Client{Timeout: 10 * time.Second}
		for range 3 {
			answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
			if err != nil {
				return err
			}
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || string(body) != "forwarded\n" {
				return fmt.Errorf("the pod answered %q (%v)", body, err)
			}
		}
		return nil
	}
}

func evicted(ctx context.Context, w *world) error {
	pods := w.typed.CoreV1().Pods(w.namespace)
	err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: podName}})
	if err != nil {
		return err
	}
	return until(ctx, "the pod to be gone", 30, func(ctx context.Context) (bool, error) {
		_, err := pods.Get(ctx, podName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}
