package main

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
)

var applyChecks = []check{
	{"server-side apply: typed, with a conflict between two managers", applied},
	{"server-side apply: dynamic client", appliedDynamically},
}

func applied(ctx context.Context, w *world) error {
	maps := w.typed.CoreV1().ConfigMaps(w.namespace)
	one := applycorev1.ConfigMap("applied", w.namespace).WithData(map[string]string{"a": "1", "b": "1"})
	if _, err := maps.Apply(ctx, one, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	two := applycorev1.ConfigMap("applied", w.namespace).WithData(map[string]string{"b": "2"})
	if _, err := maps.Apply(ctx, two, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		return fmt.Errorf("another manager's field should be a Conflict, and said: %v", err)
	}
	if _, err := maps.Apply(ctx, two, metav1.ApplyOptions{FieldManager: "two", Force: true}); err != nil {
		return err
	}
	// The first manager gives up its field: it goes, the other one's stays.
	none := applycorev1.ConfigMap("applied", w.namespace)
	left, err := maps.Apply(ctx, none, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	if len(left.Data) != 1 || left.Data["b"] != "2" {
		return fmt.Errorf("what is left: %v", left.Data)
	}
	extracted, err := applycorev1.ExtractConfigMap(left, "two")
	if err != nil {
		return err
	}
	return expect(len(extracted.Data) == 1, "the second manager owns %v", extracted.Data)
}

func appliedDynamically(ctx context.Context, w *world) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "applied-dynamic", "namespace": w.namespace},
		"data":     map[string]any{"a": "1"},
	}}
	made, err := w.dynamic.Resource(configMaps).Namespace(w.namespace).
		Apply(ctx, "applied-dynamic", object, metav1.ApplyOptions{FieldManager: "dynamic"})
	if err != nil {
		return err
	}
	fields := made.GetManagedFields()
	return expect(len(fields) == 1 && fields[0].Manager == "dynamic", "managedFields: %v", fields)
}
