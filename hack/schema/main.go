// Writes the structural facts of every built-in kind: Go's types (JSON names, pointers, omitempty, protobuf numbers, merge
// strategies) by reflection, joined with what only the OpenAPI documents of a running API server say (list types, map keys,
// defaults, required, enums). No descriptions. The format is documented in apiserver/src/schema/table.rs.
//
//	go run . <folder of OpenAPI v3 documents> > builtin.schema
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Types whose JSON form is not that of their Go struct.
var leaves = map[string]string{
	"k8s.io/apimachinery/pkg/api/resource.Quantity":   "quantity",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":       "time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":  "microtime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":   "duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":   "fieldsv1",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString": "intorstring",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":    "raw",
	apiextPackage + ".JSON":                           "json",
	apiextPackage + ".JSONSchemaPropsOrBool":          "schemaorbool",
	apiextPackage + ".JSONSchemaPropsOrArray":         "schemaorarray",
	apiextPackage + ".JSONSchemaPropsOrStringArray":   "schemaorstrings",
}

const apiextPackage = "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

type schema struct {
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	Values     *schema            `json:"additionalProperties"`
	Default    json.RawMessage    `json:"default"`
	Enum       []string           `json:"enum"`
	Format     string             `json:"format"`
	ListType   string             `json:"x-kubernetes-list-type"`
	ListKeys   []string           `json:"x-kubernetes-list-map-keys"`
	MapType    string             `json:"x-kubernetes-map-type"`
	Unions     json.RawMessage    `json:"x-kubernetes-unions"`
	Kinds      []kind             `json:"x-kubernetes-group-version-kind"`
}

type kind struct{ Group, Version, Kind string }

var (
	documents = map[string]*schema{} // by OpenAPI name
	types     = map[reflect.Type]bool{}
)

func main() {
	must(apiext.AddToScheme(scheme.Scheme))
	must(apireg.AddToScheme(scheme.Scheme))
	readDocuments(os.Args[1])

	var kinds []string
	known := scheme.Scheme.AllKnownTypes()
	for gvk, t := range known {
		if _, served := documents[openAPIName(t)]; !served || gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if t.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1" {
			kinds = append(kinds, fmt.Sprintf("kind %s %s %s", gvk.GroupVersion(), gvk.Kind, ref(t)))
		}
		collect(t)
	}
	for _, o := range []any{metav1.DeleteOptions{}, metav1.Status{}, metav1.APIResourceList{}, metav1.APIGroup{},
		metav1.APIGroupList{}, metav1.APIVersions{}, metav1.CreateOptions{}, metav1.UpdateOptions{}, metav1.PatchOptions{},
		metav1.WatchEvent{}, metav1.PartialObjectMetadata{}, metav1.PartialObjectMetadataList{}} {
		t := reflect.TypeOf(o)
		kinds = append(kinds, fmt.Sprintf("kind * %s %s", t.Name(), ref(t)))
		collect(t)
	}
	sort.Strings(kinds)
	for _, k := range kinds {
		fmt.Println(k)
	}
	printTypes()
}

func readDocuments(folder string) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	must(err)
	for _, file := range files {
		var doc struct {
			Components struct{ Schemas map[string]*schema }
		}
		data, err := os.ReadFile(file)
		must(err)
		must(json.Unmarshal(data, &doc))
		for name, s := range doc.Components.Schemas {
			documents[name] = s
		}
	}
}

func collect(t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if _, leaf := leaves[goName(t)]; leaf {
		if goName(t) == apiextPackage+".JSONSchemaPropsOrBool" {
			collect(reflect.TypeOf(apiext.JSONSchemaProps{}))
		}
		return
	}
	if t.Kind() != reflect.Struct || types[t] {
		return
	}
	types[t] = true
	for i := range t.NumField() {
		collect(t.Field(i).Type)
	}
}

func printTypes() {
	var all []reflect.Type
	for t := range types {
		all = append(all, t)
	}
	sort.Slice(all, func(i, j int) bool { return goName(all[i]) < goName(all[j]) })
	pkg := ""
	for _, t := range all {
		if t.PkgPath() != pkg {
			pkg = t.PkgPath()
			fmt.Printf("package %s %s\n", alias(pkg), openAPIPackage(pkg))
		}
		doc := documents[openAPIName(t)]
		if doc == nil {
			doc = &schema{}
		}
		line := "type " + ref(t)
		if doc.MapType != "" {
			line += " map=" + doc.MapType
		}
		if len(doc.Unions) > 0 {
			line += " unions=" + compact(doc.Unions)
		}
		fmt.Println(line)
		printFields(t, doc, nil)
	}
}

// printFields prints a struct's fields with those of embedded structs among them, as JSON has them.
func printFields(t reflect.Type, doc *schema, embedded []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" { // inline
			if f.Type.Kind() != reflect.Struct {
				log.Fatalf("%s.%s: inlined %s", t, f.Name, f.Type)
			}
			if n := protobuf(f); n != "0" && len(embedded) == 0 {
				fmt.Printf(" + %s %s\n", n, ref(f.Type))
			}
			printFields(f.Type, doc, append(embedded, f.Name))
			continue
		}
		printField(f, name, options, doc, embedded)
	}
}

func printField(f reflect.StructField, name, options string, doc *schema, embedded []string) {
	number := protobuf(f)
	if len(embedded) > 0 {
		number = "0"
	}
	line := fmt.Sprintf(" %s %s %s", name, typeText(f.Type), number)
	add := func(key, value string) {
		if value != "" {
			line += " " + key + value
		}
	}
	if hasOption(options, "omitempty") {
		add("o", " ")
		line = strings.TrimSuffix(line, " ")
	}
	if hasOption(options, "omitzero") {
		line += " z"
	}
	for _, required := range doc.Required {
		if required == name {
			line += " r"
		}
	}
	add("@", strings.Join(embedded, "."))
	add("s=", f.Tag.Get("patchStrategy"))
	add("k=", f.Tag.Get("patchMergeKey"))
	if p := doc.Properties[name]; p != nil {
		add("l=", p.ListType)
		add("i=", strings.Join(p.ListKeys, ","))
		add("m=", p.MapType)
		if d := compact(p.Default); d != "{}" {
			add("d=", d)
		}
		add("e=", enum(p.Enum))
		if p.Format != "" && p.Format != impliedFormat(f.Type) {
			add("f=", p.Format)
		}
		for _, element := range []*schema{p.Items, p.Values} {
			if element != nil {
				add("E=", enum(element.Enum))
			}
		}
	}
	fmt.Println(line)
}

func typeText(t reflect.Type) string {
	if leaf, ok := leaves[goName(t)]; ok {
		return leaf
	}
	switch t.Kind() {
	case reflect.Pointer:
		return "*" + typeText(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[" + named(t) + "]" + typeText(t.Elem())
	case reflect.Map:
		text := named(t)
		if text == "" && t.Key().Name() != "string" {
			text = t.String()
		}
		return "{" + text + "}" + typeText(t.Elem())
	case reflect.Struct:
		return ref(t)
	}
	text, ok := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "bool", reflect.Int32: "int32", reflect.Int64: "int64",
		reflect.Float64: "double"}[t.Kind()]
	if !ok {
		log.Fatalf("no name for %s", t)
	}
	if t.PkgPath() != "" {
		text += ":" + t.String()
	}
	return text
}

func named(t reflect.Type) string {
	if t.Name() == "" {
		return ""
	}
	return t.String()
}

func impliedFormat(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Int32 || t.Kind() == reflect.Int64:
		return t.Kind().String()
	case t.Kind() == reflect.Float64:
		return "double"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return "byte"
	}
	return ""
}

func protobuf(f reflect.StructField) string {
	parts := strings.Split(f.Tag.Get("protobuf"), ",")
	if len(parts) < 3 {
		return "0"
	}
	return parts[1]
}

func hasOption(options, name string) bool {
	for _, o := range strings.Split(options, ",") {
		if o == name {
			return true
		}
	}
	return false
}

func compact(raw json.RawMessage) string {
	if raw == nil {
		return ""
	}
	var v any
	must(json.Unmarshal(raw, &v))
	text, err := json.Marshal(v)
	must(err)
	return string(text)
}

func goName(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }

func ref(t reflect.Type) string { return alias(t.PkgPath()) + "." + t.Name() }

// alias is a package's last two path elements, which are unique among the API packages.
func alias(pkg string) string {
	parts := strings.Split(pkg, "/")
	return strings.Join(parts[max(0, len(parts)-2):], "/")
}

func openAPIPackage(pkg string) string {
	host, rest, _ := strings.Cut(pkg, "/")
	labels := strings.Split(host, ".")
	for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
		labels[i], labels[j] = labels[j], labels[i]
	}
	return strings.Join(labels, ".") + "." + strings.ReplaceAll(rest, "/", ".")
}

func openAPIName(t reflect.Type) string { return openAPIPackage(t.PkgPath()) + "." + t.Name() }

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// enum joins values; a space inside one is written as `~`.
func enum(values []string) string { return strings.ReplaceAll(strings.Join(values, ","), " ", "~") }
