//! What expressions mean, and what is said of those that mean nothing.

use serde_json::{Value as Json, json};

use super::*;

struct Variables(Vec<(&'static str, &'static Json)>);

impl Scope<'static> for Variables {
    fn variable(&self, name: &str, _: &mut Context<'static, '_>) -> Option<Result<Value<'static>, Failure>> {
        let found = self.0.iter().find(|(own, _)| *own == name);
        found.map(|(_, json)| Ok(Value::from(*json)))
    }

    fn authorize(&self, query: &Query) -> Verdict {
        Verdict { allowed: query.verb == "get", reason: String::new(), error: None }
    }
}

fn environment() -> Environment {
    let user = Type::object("kubernetes.UserInfo", [("username", Type::String)]);
    let request = Type::object("kubernetes.AdmissionRequest", [("name", Type::String), ("userInfo", user)]);
    Environment::default().with("object", Type::Dyn).with("request", request).with("object.x", Type::Int)
}

/// The value's JSON, or the error.
fn run(text: &str) -> Json {
    let object: &'static Json = Box::leak(Box::new(json!({
        "metadata": {"name": "a", "labels": {"k8s.io/x": "1"}},
        "spec": {"replicas": 3, "ports": [80, 443], "containers": [{"name": "c", "image": "i:1"}, {"name": "d"}]},
    })));
    let scope = Variables(vec![("object", object)]);
    match environment().compile(text) {
        Err(why) => json!({"compile": why}),
        Ok(program) => match program.evaluate(&mut Context::new(&scope, POLICY_BUDGET)) {
            Ok(value) => value.to_json().unwrap_or_else(|| json!(value.type_of().to_string())),
            Err(why) => json!({"error": why.to_string()}),
        },
    }
}

#[test]
fn expressions_mean_what_the_language_says() {
    for (text, expected) in [
        ("1 + 2 * 3 - -4", json!(11)),
        ("7 / 2 == 3 && 7 % 2 == 1 && 2.5 * 2.0 == 5.0", json!(true)),
        ("1 < 2.5 && 3u > 2", json!(true)),
        ("'a' + \"b\" + r'\\n' + '\\u00e9' + '''c'd'''", json!("ab\\néc'd")),
        ("object.spec.replicas > 2 ? 'many' : 'few'", json!("many")),
        ("has(object.spec.replicas) && !has(object.spec.paused)", json!(true)),
        ("object.metadata.labels['k8s.io/x'] == '1' && 'k8s.io/x' in object.metadata.labels", json!(true)),
        ("object.spec.containers.all(c, c.name.size() == 1)", json!(true)),
        ("object.spec.containers.exists(c, has(c.image) && c.image.endsWith(':1'))", json!(true)),
        ("object.spec.containers.exists_one(c, c.name == 'd')", json!(true)),
        ("object.spec.ports.filter(p, p > 100).map(p, p + 1)", json!([444])),
        ("object.spec.ports.map(p, p > 100, p * 2)", json!([886])),
        ("{'a': 1, 'b': 2}.all(k, v, k != '' && v > 0)", json!(true)),
        ("[5, 6].transformList(i, v, i + v)", json!([5, 7])),
        ("{'a': 1}.transformMap(k, v, v + 1)", json!({"a": 2})),
        ("[3, 1, 2].sortBy(x, -x)", json!([3, 2, 1])),
        // One operand that decides outweighs an error.
        ("object.nope == 1 || true", json!(true)),
        ("false && object.nope == 1", json!(false)),
        ("object.spec.?nope.orValue('none')", json!("none")),
        ("object.?spec.?replicas.hasValue()", json!(true)),
        ("object.spec.ports[?5].orValue(1)", json!(1)),
        ("[?object.spec.?nope, ?optional.of(dyn(1))]", json!([1])),
        ("optional.of(2).optMap(x, x + 1).value()", json!(3)),
        ("type(1) == int && type('') != int", json!(true)),
        ("dyn(1) == 1.0", json!(true)),
        ("'%s has %d of %.2f'.format(['a', dyn(3), dyn(1.5)])", json!("a has 3 of 1.50")),
        ("'a,b'.split(',').join('-').upperAscii()", json!("A-B")),
        ("'hello'.substring(1, 3) + 'hello'.charAt(4) + string('hello'.lastIndexOf('l'))", json!("elo3")),
        ("'abc123'.matches('^[a-z]+[0-9]+$') && 'x1y2'.findAll('[0-9]') == ['1', '2']", json!(true)),
        ("[1, 2, 3].sum() == 6 && ['b', 'a'].min() == 'a' && [1, 2].isSorted()", json!(true)),
        ("sets.contains([1, 2, 3], [2]) && !sets.intersects([1], [2])", json!(true)),
        (
            "quantity('1Gi').isGreaterThan(quantity('500Mi')) && quantity('1').add(1).asInteger() == 2",
            json!(true),
        ),
        ("url('https://h:8080/p?q=1').getPort() + url('https://h/p').getHostname()", json!("8080h")),
        ("ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3')", json!(true)),
        ("semver('1.10.0').isGreaterThan(semver('1.9.3')) && !isSemver('1.2')", json!(true)),
        ("format.dns1123Label().validate('A').hasValue()", json!(true)),
        ("duration('1h30m') > duration('1h') && duration('90m').getHours() == 1", json!(true)),
        ("timestamp('2024-02-29T01:02:03Z').getFullYear() == 2024", json!(true)),
        ("timestamp('2024-02-29T23:00:00Z').getDayOfMonth('+02:00')", json!(0)),
        ("bytes('ab').size() + size('é')", json!(3)),
        ("int('12') + int(2.9) + size([1]) + int(duration('1s').getSeconds())", json!(16)),
    ] {
        assert_eq!(run(text), expected, "{text}");
    }
}

#[test]
fn what_fails_says_so_in_upstream_words() {
    for (text, error) in [
        ("object.spec.nope", "no such key: nope"),
        ("object.spec.ports[7]", "index out of bounds: 7"),
        ("1 / (1 - 1)", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("object.spec.replicas + 'a'", "no such overload"),
        (
            "lists.range(3000).all(a, lists.range(3000).all(b, a + b >= 0))",
            "operation cancelled: actual cost limit exceeded",
        ),
    ] {
        assert_eq!(run(text), json!({"error": error}), "{text}");
    }
}

#[test]
fn mistakes_are_found_when_compiling_and_shown_where_they_are() {
    for (text, message) in [
        (
            "nope == 1",
            "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope == 1\n | ^",
        ),
        ("request.nope", "ERROR: <input>:1:8: undefined field 'nope'\n | request.nope\n | .......^"),
        (
            "request.name > 3",
            "ERROR: <input>:1:14: found no matching overload for '_>_' applied to '(string, int)'\n | request.name > \
             3\n | .............^",
        ),
        (
            "'a'.startsWith(1)",
            "ERROR: <input>:1:15: found no matching overload for 'startsWith' applied to 'string.(int)'\n | \
             'a'.startsWith(1)\n | ..............^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', \
             'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
    ] {
        assert_eq!(run(text), json!({"compile": message}), "{text}");
    }
    let bool = environment().compile_as("'a'", &[Type::Bool]).unwrap_err();
    assert_eq!(bool, "must evaluate to bool but got string");
}

#[test]
fn an_expression_too_deep_for_the_evaluator_is_refused() {
    let text = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(run(&text)["compile"].as_str().unwrap().contains("recursion limit exceeded"));
    let long = vec!["1"; 5000].join("+");
    assert!(run(&long)["compile"].as_str().unwrap().contains("recursion limit exceeded"));
    let flat = vec!["true"; 5000].join(" && ");
    assert_eq!(run(&flat), json!(true));
}

/// What upstream v1.36.3 says of expressions in a validating policy.
#[test]
fn expressions_are_accepted_and_refused_as_upstream_does() {
    use crate::admission::expressions::{Declared, environment};
    let environment = environment(Declared { authorizer: true, ..Declared::default() });
    let recorded: std::collections::BTreeMap<String, Option<String>> =
        serde_json::from_str(include_str!("recorded.json")).unwrap();
    assert!(recorded.len() > 90);
    for (text, expected) in recorded {
        assert_eq!(environment.compile_as(&text, &[Type::Bool]).err(), expected, "{text}");
    }
}

/// A result in the form of the table.
fn shown(value: &Value<'_>) -> Json {
    let text = |value: &Value<'_>| library_text(value).unwrap_or_default().into();
    match value {
        Value::Optional(None) => "none".into(),
        Value::Optional(Some(inner)) => json!({"of": shown(inner)}),
        Value::Int(i) if i.unsigned_abs() > 1 << 53 => i.to_string().into(),
        Value::Int(i) => json!(i),
        Value::Uint(u) => json!(u),
        Value::Double(d) if !d.is_finite() => match *d {
            d if d.is_nan() => "NaN".into(),
            d if d > 0.0 => "Infinity".into(),
            _ => "-Infinity".into(),
        },
        Value::List(_) | Value::Json(Json::Array(_)) => {
            value.items().unwrap_or_default().iter().map(shown).collect()
        }
        Value::Map(_) | Value::Json(Json::Object(_)) => {
            let entries = value.entries().unwrap_or_default();
            let key = |k: &Value<'_>| library_text(k).unwrap_or_default();
            Json::Object(entries.iter().map(|(k, v)| (key(k), shown(v))).collect())
        }
        Value::Bytes(b) => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(b).into()
        }
        Value::Double(d) if d.fract() == 0.0 && d.abs() < 1e15 => json!(*d as i64),
        Value::Null | Value::Bool(_) | Value::Double(_) | Value::String(_) => {
            value.to_json().unwrap_or_default()
        }
        Value::Quantity(quantity) => quantity.to_string().into(),
        other => text(other),
    }
}

fn library_text(value: &Value<'_>) -> Option<String> {
    match library::text_of(value) {
        Ok(Value::String(text)) => Some(text.into_owned()),
        _ => None,
    }
}

/// What upstream v1.36.3's own environment says of some hundreds of expressions: `[text, kind, answer]`, where the answer
/// is an error's text, or a value's type and JSON.
#[test]
fn expressions_are_worth_what_they_are_upstream() {
    let object: &'static Json = Box::leak(Box::new(json!({
        "metadata": {"name": "a"}, "spec": {"replicas": 3, "none": null, "ports": [80, 443]},
    })));
    let (s, n): (&'static Json, &'static Json) =
        (Box::leak(Box::new(json!("abc"))), Box::leak(Box::new(json!(7))));
    let (l, m): (&'static Json, &'static Json) =
        (Box::leak(Box::new(json!(["x", "y"]))), Box::leak(Box::new(json!({"a": 1}))));
    struct More(Variables);
    impl Scope<'static> for More {
        fn variable(
            &self,
            name: &str,
            cx: &mut Context<'static, '_>,
        ) -> Option<Result<Value<'static>, Failure>> {
            if name == "ol" { Some(Ok(Value::Optional(None))) } else { self.0.variable(name, cx) }
        }

        fn authorize(&self, query: &Query) -> Verdict {
            self.0.authorize(query)
        }
    }
    let scope = More(Variables(vec![("object", object), ("s", s), ("n", n), ("l", l), ("m", m)]));
    let environment = Environment::default()
        .with("object", Type::Dyn)
        .with("s", Type::String)
        .with("n", Type::Int)
        .with("l", Type::list(Type::String))
        .with("m", Type::map(Type::String, Type::Int))
        .with("ol", Type::optional(Type::String));
    let mut wrong = vec![];
    let table = include_str!("testdata/upstream.jsonl");
    for line in table.lines() {
        let (text, kind, theirs): (String, String, Json) = serde_json::from_str(line).expect("a row");
        let ours = match environment.compile(&text) {
            Err(why) => ("compile".to_owned(), json!(why)),
            Ok(program) => match program.evaluate(&mut Context::new(&scope, POLICY_BUDGET)) {
                Err(why) => ("error".to_owned(), json!(why.to_string())),
                Ok(value) => ("value".to_owned(), json!([value.type_of().base_name(), shown(&value)])),
            },
        };
        // Upstream evaluates some constants when it compiles; we do so for regular expressions.
        let made = ours.1.as_str().and_then(|why| why.strip_prefix("program instantiation failed: "));
        if kind == "program" && (ours.1 == theirs || made == theirs.as_str()) {
            continue;
        }
        if ours != (kind.clone(), theirs.clone()) {
            wrong.push(format!("{text}\n  ours   {} {}\n  theirs {kind} {theirs}", ours.0, ours.1));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// All of them with their line would be gigabytes.
#[test]
fn many_mistakes_are_counted_and_long_lines_left_out() {
    let mistakes = |item: &str| environment().compile(&format!("[{}]", item.repeat(20_000))).unwrap_err();
    let few = mistakes("!x,\n");
    assert!(few.ends_with("\n19900 more errors were truncated"), "{}", &few[few.len() - 60..]);
    assert_eq!((few.matches("ERROR:").count(), few.matches("\n | .^").count()), (100, 99));
    let long = mistakes("!x,");
    assert!(long.len() < 20_000 && !long.contains(" | "), "{} bytes", long.len());
    let wide = environment().compile("'\u{e9}'\t+ x").unwrap_err();
    let reference = "ERROR: <input>:1:7: undeclared reference to 'x' (in container '')";
    assert_eq!(wide, format!("{reference}\n | '\u{e9}' + x\n | .\u{ff0e}....^"));
}

#[test]
fn no_text_makes_the_compiler_panic_or_run_away() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let mut random = StdRng::seed_from_u64(5);
    let parts: Vec<&str> = "a object s [ ] ( ) { } . ? : , + - * / % ! == != < > in && || 1 1u 1.5 'x' \"\" b'' r'\\' null true \
        .map( .all( .exists( x, .optMap( has( [? .? ` é \\ 0x 1e9 //n \u{0} duration( timestamp( matches( size( type( dyn( \
        optional.of( .filter( .sortBy( 9223372036854775808 -9223372036854775808 namespace"
        .split(' ')
        .collect();
    for _ in 0..30_000 {
        let length = random.random_range(1..14);
        let text: String = (0..length).map(|_| parts[random.random_range(0..parts.len())]).collect();
        run(&text);
    }
    assert!(run(&" ".repeat(100_001))["compile"].as_str().unwrap().contains("code point size exceeds limit"));
    // Long and deep ones end, and are refused in upstream's words.
    for text in [
        "-".repeat(100_000),
        "!".repeat(100_000),
        "[".repeat(100_000),
        "a.".repeat(50_000),
        "a?a:".repeat(50_000),
        "{1:".repeat(50_000),
        "has(".repeat(50_000),
        format!("s{}", ".map(x, x)".repeat(5_000)),
    ] {
        assert!(run(&text)["compile"].is_string(), "{}", &text[..20]);
    }
}
