//! The messages of a Swagger document in protobuf, as google/gnostic's `OpenAPIv2.proto` has them (`openapi.v2.Document`):
//! the only form of `/openapi/v2` that Go clients ask for.

use serde_json::Value;

use super::protobuf::Shape::{Any, EachAny, Flag, Integer, Number, Of, Text};
use super::protobuf::{Field, Message, Shape};

const fn record(fields: &'static [Field], extensions: u32) -> Message {
    Message::Record { fields, extensions }
}

const fn named(value: Shape) -> Message {
    Message::Pairs { number: 1, value, extensions: 0 }
}

/// The root.
pub(super) static DOCUMENT: Message = record(
    &[
        Field("swagger", 1, Text),
        Field("info", 2, Of(&INFO)),
        Field("host", 3, Text),
        Field("basePath", 4, Text),
        Field("schemes", 5, Text),
        Field("consumes", 6, Text),
        Field("produces", 7, Text),
        Field("paths", 8, Of(&PATHS)),
        Field("definitions", 9, Of(&SCHEMAS)),
        Field("parameters", 10, Of(&PARAMETER_DEFINITIONS)),
        Field("responses", 11, Of(&RESPONSE_DEFINITIONS)),
        Field("security", 12, Of(&REQUIREMENT)),
        Field("securityDefinitions", 13, Of(&SECURITY)),
        Field("tags", 14, Of(&TAG)),
        Field("externalDocs", 15, Of(&DOCS)),
    ],
    16,
);

static INFO: Message = record(
    &[
        Field("title", 1, Text),
        Field("version", 2, Text),
        Field("description", 3, Text),
        Field("termsOfService", 4, Text),
        Field("contact", 5, Of(&CONTACT)),
        Field("license", 6, Of(&LICENSE)),
    ],
    7,
);
static CONTACT: Message =
    record(&[Field("name", 1, Text), Field("url", 2, Text), Field("email", 3, Text)], 4);
static LICENSE: Message = record(&[Field("name", 1, Text), Field("url", 2, Text)], 3);
static TAG: Message =
    record(&[Field("name", 1, Text), Field("description", 2, Text), Field("externalDocs", 3, Of(&DOCS))], 4);
static DOCS: Message = record(&[Field("description", 1, Text), Field("url", 2, Text)], 3);

static PATHS: Message = Message::Pairs { number: 2, value: Of(&PATH), extensions: 1 };
static PATH: Message = record(
    &[
        Field("$ref", 1, Text),
        Field("get", 2, Of(&OPERATION)),
        Field("put", 3, Of(&OPERATION)),
        Field("post", 4, Of(&OPERATION)),
        Field("delete", 5, Of(&OPERATION)),
        Field("options", 6, Of(&OPERATION)),
        Field("head", 7, Of(&OPERATION)),
        Field("patch", 8, Of(&OPERATION)),
        Field("parameters", 9, Of(&PARAMETER_ITEM)),
    ],
    10,
);
static OPERATION: Message = record(
    &[
        Field("tags", 1, Text),
        Field("summary", 2, Text),
        Field("description", 3, Text),
        Field("externalDocs", 4, Of(&DOCS)),
        Field("operationId", 5, Text),
        Field("produces", 6, Text),
        Field("consumes", 7, Text),
        Field("parameters", 8, Of(&PARAMETER_ITEM)),
        Field("responses", 9, Of(&RESPONSES)),
        Field("schemes", 10, Text),
        Field("deprecated", 11, Flag),
        Field("security", 12, Of(&REQUIREMENT)),
    ],
    13,
);

static PARAMETER_DEFINITIONS: Message = named(Of(&PARAMETER));
static PARAMETER_ITEM: Message = Message::Union(|value| match value.get("$ref") {
    Some(_) => (2, Of(&REFERENCE)),
    None => (1, Of(&PARAMETER)),
});
static PARAMETER: Message = Message::Union(|value| match place(value) {
    "body" => (1, Of(&BODY)),
    _ => (2, Of(&NO_BODY)),
});
static NO_BODY: Message = Message::Union(|value| match place(value) {
    "header" => (1, Of(&HEADER_PARAMETER)),
    "formData" => (2, Of(&EMPTYABLE_PARAMETER)),
    "query" => (3, Of(&EMPTYABLE_PARAMETER)),
    _ => (4, Of(&HEADER_PARAMETER)),
});

fn place(parameter: &Value) -> &str {
    parameter.get("in").and_then(Value::as_str).unwrap_or_default()
}

static BODY: Message = record(
    &[
        Field("description", 1, Text),
        Field("name", 2, Text),
        Field("in", 3, Text),
        Field("required", 4, Flag),
        Field("schema", 5, Of(&SCHEMA)),
    ],
    6,
);
/// The fields of what has a simple type, from a number on, between those before and those after them.
macro_rules! typed {
    ($($before:expr),*; $at:literal; $($after:expr),*) => {
        &[
            $($before,)*
            Field("type", $at, Text),
            Field("format", $at + 1, Text),
            Field("items", $at + 2, Of(&ITEMS)),
            Field("collectionFormat", $at + 3, Text),
            Field("default", $at + 4, Any),
            Field("maximum", $at + 5, Number),
            Field("exclusiveMaximum", $at + 6, Flag),
            Field("minimum", $at + 7, Number),
            Field("exclusiveMinimum", $at + 8, Flag),
            Field("maxLength", $at + 9, Integer),
            Field("minLength", $at + 10, Integer),
            Field("pattern", $at + 11, Text),
            Field("maxItems", $at + 12, Integer),
            Field("minItems", $at + 13, Integer),
            Field("uniqueItems", $at + 14, Flag),
            Field("enum", $at + 15, EachAny),
            Field("multipleOf", $at + 16, Number),
            $($after,)*
        ]
    };
}

/// Parameters in headers and in paths.
static HEADER_PARAMETER: Message = record(
    typed![
        Field("required", 1, Flag), Field("in", 2, Text), Field("description", 3, Text), Field("name", 4, Text);
        5;
    ],
    22,
);
/// Parameters in queries and forms.
static EMPTYABLE_PARAMETER: Message = record(
    typed![
        Field("required", 1, Flag), Field("in", 2, Text), Field("description", 3, Text), Field("name", 4, Text),
        Field("allowEmptyValue", 5, Flag);
        6;
    ],
    23,
);
static ITEMS: Message = record(typed![; 1;], 18);
static HEADER: Message = record(typed![; 1; Field("description", 18, Text)], 19);

static RESPONSE_DEFINITIONS: Message = named(Of(&RESPONSE));
static RESPONSES: Message = Message::Pairs { number: 1, value: Of(&RESPONSE_ITEM), extensions: 2 };
static RESPONSE_ITEM: Message = Message::Union(|value| match value.get("$ref") {
    Some(_) => (2, Of(&REFERENCE)),
    None => (1, Of(&RESPONSE)),
});
static RESPONSE: Message = record(
    &[
        Field("description", 1, Text),
        Field("schema", 2, Of(&RESPONSE_SCHEMA)),
        Field("headers", 3, Of(&HEADERS)),
        Field("examples", 4, Of(&EXAMPLES)),
    ],
    5,
);
static HEADERS: Message = named(Of(&HEADER));
static EXAMPLES: Message = named(Any);
static REFERENCE: Message = record(&[Field("$ref", 1, Text), Field("description", 2, Text)], 0);

static RESPONSE_SCHEMA: Message = Message::Union(|value| match value.get("type") {
    Some(kind) if kind == "file" => (2, Of(&FILE)),
    _ => (1, Of(&SCHEMA)),
});
static FILE: Message = record(
    &[
        Field("format", 1, Text),
        Field("title", 2, Text),
        Field("description", 3, Text),
        Field("default", 4, Any),
        Field("required", 5, Text),
        Field("type", 6, Text),
        Field("readOnly", 7, Flag),
        Field("externalDocs", 8, Of(&DOCS)),
        Field("example", 9, Any),
    ],
    10,
);
static SCHEMAS: Message = named(Of(&SCHEMA));
static SCHEMA: Message = record(
    &[
        Field("$ref", 1, Text),
        Field("format", 2, Text),
        Field("title", 3, Text),
        Field("description", 4, Text),
        Field("default", 5, Any),
        Field("multipleOf", 6, Number),
        Field("maximum", 7, Number),
        Field("exclusiveMaximum", 8, Flag),
        Field("minimum", 9, Number),
        Field("exclusiveMinimum", 10, Flag),
        Field("maxLength", 11, Integer),
        Field("minLength", 12, Integer),
        Field("pattern", 13, Text),
        Field("maxItems", 14, Integer),
        Field("minItems", 15, Integer),
        Field("uniqueItems", 16, Flag),
        Field("maxProperties", 17, Integer),
        Field("minProperties", 18, Integer),
        Field("required", 19, Text),
        Field("enum", 20, EachAny),
        Field("additionalProperties", 21, Of(&ADDITIONAL)),
        Field("type", 22, Of(&TYPE)),
        Field("items", 23, Of(&SCHEMA_ITEMS)),
        Field("allOf", 24, Of(&SCHEMA)),
        Field("properties", 25, Of(&SCHEMAS)),
        Field("discriminator", 26, Text),
        Field("readOnly", 27, Flag),
        Field("xml", 28, Of(&XML)),
        Field("externalDocs", 29, Of(&DOCS)),
        Field("example", 30, Any),
    ],
    31,
);
static ADDITIONAL: Message = Message::Union(|value| match value {
    Value::Bool(_) => (2, Flag),
    _ => (1, Of(&SCHEMA)),
});
static TYPE: Message = Message::Several(Text);
static SCHEMA_ITEMS: Message = Message::Several(Of(&SCHEMA));
static XML: Message = record(
    &[
        Field("name", 1, Text),
        Field("namespace", 2, Text),
        Field("prefix", 3, Text),
        Field("attribute", 4, Flag),
        Field("wrapped", 5, Flag),
    ],
    6,
);

static REQUIREMENT: Message = named(Of(&TEXTS));
static TEXTS: Message = Message::Several(Text);
static SECURITY: Message = named(Of(&SECURITY_ITEM));
static SECURITY_ITEM: Message = Message::Union(|value| {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("flow")) {
        ("apiKey", _) => (2, Of(&API_KEY)),
        ("oauth2", "implicit") => (3, Of(&OAUTH_IMPLICIT)),
        ("oauth2", "password") => (4, Of(&OAUTH_TOKEN)),
        ("oauth2", "application") => (5, Of(&OAUTH_TOKEN)),
        ("oauth2", _) => (6, Of(&OAUTH_CODE)),
        _ => (1, Of(&BASIC)),
    }
});
static BASIC: Message = record(&[Field("type", 1, Text), Field("description", 2, Text)], 3);
static API_KEY: Message = record(
    &[Field("type", 1, Text), Field("name", 2, Text), Field("in", 3, Text), Field("description", 4, Text)],
    5,
);
static SCOPES: Message = named(Text);
static OAUTH_IMPLICIT: Message = record(
    &[
        Field("type", 1, Text),
        Field("flow", 2, Text),
        Field("scopes", 3, Of(&SCOPES)),
        Field("authorizationUrl", 4, Text),
        Field("description", 5, Text),
    ],
    6,
);
static OAUTH_TOKEN: Message = record(
    &[
        Field("type", 1, Text),
        Field("flow", 2, Text),
        Field("scopes", 3, Of(&SCOPES)),
        Field("tokenUrl", 4, Text),
        Field("description", 5, Text),
    ],
    6,
);
static OAUTH_CODE: Message = record(
    &[
        Field("type", 1, Text),
        Field("flow", 2, Text),
        Field("scopes", 3, Of(&SCOPES)),
        Field("authorizationUrl", 4, Text),
        Field("tokenUrl", 5, Text),
        Field("description", 6, Text),
    ],
    7,
);
