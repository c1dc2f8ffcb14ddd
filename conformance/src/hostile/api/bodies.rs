//! Bodies that cost more to read than to send.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;

use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::{Scene, tally};
use crate::wire::JSON;

const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What any account may ask.
const REVIEW: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// As long may one such request take at most, in an unoptimised program too.
const PATIENCE: Duration = Duration::from_secs(30);

const BODIES: Attack = Attack {
    name: "",
    findings: "",
    by: By::Tenant,
    does: "",
    must: "a clear 4xx, or taken within the bounds; work is linear in the bytes",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "unknown keys in a bad order", findings: "security B10", quick: true, does: "20 bodies of 1.4 MB with unknown keys in the worst order, 4 at a time", how: How::Tenant(|s| Box::pin(unknown_keys(s))), ..BODIES },
    Attack { name: "YAML aliases", findings: "security M8; CVE-2019-11253", quick: true, by: By::Viewer, does: "laughs that multiply, and a scalar of 1 MB named 400 times", how: How::Peer(|s| Box::pin(aliases(s))), ..BODIES },
    Attack { name: "deep nesting", findings: "security M17; CVE-2019-11253", quick: true, does: "objects, lists, flow YAML and unknown protobuf fields nested 100,000 deep", must: "400, and nobody's stack overflows", how: How::Tenant(|s| Box::pin(depth(s))), ..BODIES },
    Attack { name: "bodies beyond the limit", findings: "CVE-2020-8551", does: "57 MB, ten at a time", must: "413, without keeping them", how: How::Tenant(|s| Box::pin(large(s))), ..BODIES },
    Attack { name: "values that are much work", findings: "CVE-2019-11253's kin", does: "quantities, numbers, durations and times with enormous exponents and lengths, duplicate keys, half surrogates", how: How::Tenant(|s| Box::pin(values(s))), ..BODIES },
    Attack { name: "questions that are much work", findings: "issue 11.4", by: By::Viewer, does: "selectors of thousands of terms in 60 KB, strange limits, continue tokens and time-outs", how: How::Peer(|s| Box::pin(questions(s))), ..BODIES },
    Attack { name: "objects full of small things", findings: "issue 11.4", does: "100,000 labels, 10,000 containers, 50,000 ports, env variables that name each other", how: How::Tenant(|s| Box::pin(small_things(s))), ..BODIES },
];

/// Sends bodies, some at a time; the codes, all of which must be among `allowed`.
pub(super) async fn send_all(
    scene: &Scene<'_>,
    by: By,
    bodies: Vec<(Method, String, &'static str, Bytes)>,
    at_once: usize,
    allowed: impl Fn(u16) -> bool,
) -> Result<String> {
    let connection = scene.connect(by).await?;
    let mut sending = vec![];
    for (method, path, kind, body) in bodies {
        let mut connection = connection.clone();
        sending.push(async move {
            let (begun, bytes) = (Instant::now(), body.len());
            let sent = scene.send(&mut connection, method, &path, kind, body);
            match tokio::time::timeout(PATIENCE, sent).await {
                // A server that has heard enough may end the stream before it has the whole body.
                Ok(Err(error)) if bytes > 3 << 20 => Ok((0, format!("{error:#}"), begun.elapsed())),
                Ok(answer) => {
                    let answer = answer?;
                    let said = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
                    anyhow::Ok((answer.code, said, begun.elapsed()))
                }
                Err(_) => anyhow::bail!("a body of {bytes} bytes had no answer in {PATIENCE:?}"),
            }
        });
    }
    let answers: Vec<_> = stream::iter(sending).buffer_unordered(at_once).collect().await;
    let (mut codes, mut longest) = (vec![], Duration::ZERO);
    for answer in answers {
        let (code, said, took) = answer?;
        // Upstream's answer to what its store does not take.
        let too_large = code == 500 && said.contains("request is too large");
        ensure!(code == 0 || too_large || allowed(code), "{code}: {said}");
        codes.push(if code == 0 { "ended".to_owned() } else { code.to_string() });
        longest = longest.max(took);
    }
    Ok(format!("{}; the longest took {:.0} ms", tally(codes), longest.as_secs_f64() * 1000.0))
}

fn refused(code: u16) -> bool {
    (400..500).contains(&code)
}

fn refused_or_taken(code: u16) -> bool {
    code < 300 || refused(code)
}

async fn unknown_keys(scene: &Scene<'_>) -> Result<String> {
    let bodies = (0..scene.amount(20, 4)).map(|n| {
        // Keys of which none is known, in an order that is neither that of the type nor of the alphabet.
        let mut fields = String::new();
        for key in (0..70_000_u32).map(|k| k.wrapping_mul(2_654_435_761) % 1_000_003) {
            fields.push_str(&format!(",\"k{key}\":{{\"a\":1}}"));
        }
        fields.truncate(1_400_000);
        let end = fields.rfind(",\"k").unwrap_or_default();
        fields.truncate(end);
        let body = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\"{fields},\"metadata\":{{\"name\":\"u{n}\"}}}}"
        );
        (Method::POST, scene.path("configmaps"), JSON, Bytes::from(body))
    });
    send_all(scene, By::Tenant, bodies.collect(), 4, refused_or_taken).await
}

async fn aliases(scene: &Scene<'_>) -> Result<String> {
    let mut laughs = "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectAccessReview\na: &a0 [\"lol\",\"lol\",\"lol\",\"lol\",\"lol\",\"lol\",\"lol\",\"lol\",\"lol\"]\n".to_owned();
    for level in 1..20 {
        let of = format!("*a{}", level - 1);
        laughs.push_str(&format!("b{level}: &a{level} [{}]\n", [of.as_str(); 9].join(",")));
    }
    let named = "  - *big\n".repeat(400);
    let big = format!(
        "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectAccessReview\nbig: &big \"{}\"\nall:\n{named}",
        "x".repeat(1 << 20)
    );
    let merged: String = (1..2000).map(|n| format!("m{n}: &m{n}\n  <<: *m{}\n  k{n}: v\n", n - 1)).collect();
    let merged = format!("m0: &m0 {{a: b}}\n{merged}");
    let itself = "a: &a [*a, *a]\n".to_owned();
    let keys = format!("? &k {}\n: 1\n? *k\n: 2\n", "x".repeat(100_000));
    let times = scene.amount(5, 1);
    let bodies = [laughs, big, merged, itself, keys]
        .into_iter()
        .flat_map(|body| vec![(Method::POST, REVIEW.to_owned(), YAML, Bytes::from(body)); times]);
    send_all(scene, By::Viewer, bodies.collect(), 4, refused).await
}

async fn depth(scene: &Scene<'_>) -> Result<String> {
    const DEEP: usize = 100_000;
    let around = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    let (maps, things) =
        (scene.path("configmaps"), format!("/apis/hostile.example/v1/namespaces/{}/things", scene.namespace));
    let thing = |inner: String| {
        format!(
            "{{\"apiVersion\":\"hostile.example/v1\",\"kind\":\"Thing\",\"metadata\":{{\"name\":\"deep\"}},\"a\":{inner}}}"
        )
    };
    // A message within a message, as unknown fields: a length that is right at each level would be too long, so the
    // lengths lie.
    let mut proto = b"k8s\0".to_vec();
    proto.extend(b"\x12\xff\xff\x03".repeat(DEEP / 4));
    // Groups need no length.
    let mut groups = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x84\x80\x06".to_vec();
    groups.extend(vec![0x0b; DEEP]);
    let bodies: Vec<(Method, String, &'static str, Bytes)> = vec![
        (Method::POST, maps.clone(), JSON, around("{\"a\":", "1", "}", DEEP).into()),
        (Method::POST, maps.clone(), JSON, around("[", "", "]", DEEP).into()),
        (Method::POST, maps.clone(), JSON, "[".repeat(1_000_000).into()),
        (Method::POST, maps.clone(), YAML, around("[", "", "]", DEEP).into()),
        (Method::POST, maps.clone(), YAML, around("{a: ", "1", "}", DEEP).into()),
        (Method::POST, maps.clone(), YAML, "- ".repeat(DEEP).into()),
        (
            Method::POST,
            maps.clone(),
            YAML,
            (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>().into(),
        ),
        (Method::POST, maps.clone(), PROTOBUF, proto.into()),
        (Method::POST, maps.clone(), PROTOBUF, groups.into()),
        (Method::POST, things.clone(), JSON, thing(around("{\"a\":", "1", "}", DEEP)).into()),
        (Method::POST, things.clone(), JSON, thing(around("[", "", "]", 200)).into()),
        (Method::POST, things, JSON, thing(around("[", "", "]", 124)).into()),
        (Method::POST, REVIEW.to_owned(), JSON, around("{\"spec\":", "{}", "}", DEEP).into()),
        (
            Method::DELETE,
            scene.path("configmaps/none"),
            JSON,
            around("{\"preconditions\":", "{}", "}", DEEP).into(),
        ),
    ];
    send_all(scene, By::Tenant, bodies, 2, refused).await
}

async fn large(scene: &Scene<'_>) -> Result<String> {
    let body = Bytes::from(vec![b' '; 57_000_000]);
    let bodies =
        (0..scene.amount(30, 3)).map(|_| (Method::POST, scene.path("configmaps"), JSON, body.clone()));
    send_all(scene, By::Tenant, bodies.collect(), 10, |code| code == 413).await
}

async fn values(scene: &Scene<'_>) -> Result<String> {
    let pods = scene.path("pods");
    let pod = |container: String| {
        format!(
            "{{\"metadata\":{{\"name\":\"v\"}},\"spec\":{{\"schedulerName\":\"none\",\"containers\":[{{\"name\":\"c\",\"image\":\"i\"{container}}}]}}}}"
        )
    };
    let quantity = |q: &str| pod(format!(",\"resources\":{{\"limits\":{{\"cpu\":\"{q}\"}}}}"));
    let thing = |value: String| {
        format!(
            "{{\"apiVersion\":\"hostile.example/v1\",\"kind\":\"Thing\",\"metadata\":{{\"generateName\":\"v-\"}},\"a\":{value}}}"
        )
    };
    let things = format!("/apis/hostile.example/v1/namespaces/{}/things", scene.namespace);
    let mut bodies: Vec<(Method, String, &'static str, Bytes)> = vec![];
    for q in ["1e2147483647", "1e-2147483647", "1e99999999999999999999", "-1e1000000000", "0.1e-1000000000"] {
        bodies.push((Method::POST, pods.clone(), JSON, quantity(q).into()));
    }
    for digits in [
        &"9".repeat(1_000_000),
        &format!("0.{}1", "0".repeat(1_000_000)),
        &format!("1{}", "0".repeat(500_000)),
    ] {
        bodies.push((Method::POST, pods.clone(), JSON, quantity(digits).into()));
        bodies.push((Method::POST, things.clone(), JSON, thing(digits.clone()).into()));
        bodies.push((Method::POST, things.clone(), YAML, thing(digits.clone()).into()));
    }
    for number in
        ["1e400", "-1e999999999", "1e-999999999", "NaN", "Infinity", "0x10", "1.7976931348623159e308"]
    {
        bodies.push((Method::POST, things.clone(), JSON, thing(number.to_owned()).into()));
    }
    for text in ["\"\\ud800\"", "\"\\udc00\\ud800\"", "\"\\u0000\"", "\"a\u{0}b\""] {
        bodies.push((Method::POST, things.clone(), JSON, thing(text.to_owned()).into()));
    }
    let twice = "\"a\":1,".repeat(200_000);
    let map = |fields: &str| format!("{{\"metadata\":{{\"name\":\"v\"}},{fields}\"data\":{{}}}}");
    bodies.push((Method::POST, scene.path("configmaps"), JSON, map(&twice).into()));
    bodies.push((
        Method::POST,
        scene.path("configmaps"),
        JSON,
        Bytes::from_static(b"{\"metadata\":{\"name\":\"\xff\xfe\"}}"),
    ));
    send_all(scene, By::Tenant, bodies, 4, refused_or_taken).await
}

async fn questions(scene: &Scene<'_>) -> Result<String> {
    let many: String = (0..3_500).map(|n| format!("a{n}%21%3Db{n},")).collect();
    let set: String = (0..9_000).map(|n| format!("v{n},")).collect();
    let fields: String = (0..2_200).map(|n| format!("metadata.name%21%3Dx{n},")).collect();
    let maps = scene.path("configmaps");
    let mut bodies = vec![];
    for query in [
        format!("labelSelector={}", many.trim_end_matches(',')),
        format!("labelSelector=a+in+({})", set.trim_end_matches(',')),
        format!("fieldSelector={}", fields.trim_end_matches(',')),
        format!("labelSelector={}", "(".repeat(60_000)),
        format!("labelSelector={}", "%21".repeat(20_000)),
        format!("fieldSelector={}", "%5C".repeat(20_000)),
        format!("continue={}", "A".repeat(60_000)),
        "limit=-1".to_owned(),
        "limit=99999999999999999999".to_owned(),
        "limit=1&continue=AAAA".to_owned(),
        "resourceVersion=99999999999999999999".to_owned(),
        "resourceVersion=-1&resourceVersionMatch=Exact".to_owned(),
        "timeoutSeconds=-1".to_owned(),
        "watch=true&timeoutSeconds=1&resourceVersion=18446744073709551615".to_owned(),
        "watch=true&timeoutSeconds=99999999999999999999".to_owned(),
        format!("pretty={}", "x".repeat(60_000)),
        "a=b&".repeat(15_000),
    ] {
        bodies.push((Method::GET, format!("{maps}?{query}"), JSON, Bytes::new()));
    }
    // 500 and 504 are what a revision from the future gets: upstream says that it is too large, and to try again.
    send_all(scene, By::Viewer, bodies, 4, |code| refused_or_taken(code) || code == 504).await
}

async fn small_things(scene: &Scene<'_>) -> Result<String> {
    let list = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(",");
    let pod = |spec: String| {
        format!("{{\"metadata\":{{\"name\":\"s\"}},\"spec\":{{\"schedulerName\":\"none\",{spec}}}}}")
    };
    let labels = list(80_000, &|n| format!("\"l{n}\":\"v\""));
    let containers = list(25_000, &|n| format!("{{\"name\":\"c{n}\",\"image\":\"i\"}}"));
    let same = list(25_000, &|_| "{\"name\":\"c\",\"image\":\"i\"}".to_owned());
    let env =
        list(20_000, &|n| format!("{{\"name\":\"E{n}\",\"value\":\"$(E{0})$(E{0})\"}}", n.saturating_sub(1)));
    let ports = list(60_000, &|n| format!("{{\"name\":\"p{n}\",\"port\":{}}}", n % 65_536));
    let owners = list(15_000, &|n| {
        format!("{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"p{n}\",\"uid\":\"{n}\"}}")
    });
    let finalizers = list(40_000, &|n| format!("\"example.com/f{n}\""));
    let spread = list(8_000, &|n| {
        format!("{{\"maxSkew\":1,\"topologyKey\":\"k{n}\",\"whenUnsatisfiable\":\"DoNotSchedule\"}}")
    });
    let one = "\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]";
    let (maps, pods, services) = (scene.path("configmaps"), scene.path("pods"), scene.path("services"));
    let bodies: Vec<(Method, String, &'static str, Bytes)> = vec![
        (
            Method::POST,
            maps.clone(),
            JSON,
            format!("{{\"metadata\":{{\"name\":\"s1\",\"labels\":{{{labels}}}}}}}").into(),
        ),
        (
            Method::POST,
            maps.clone(),
            JSON,
            format!("{{\"metadata\":{{\"name\":\"s2\",\"ownerReferences\":[{owners}]}}}}").into(),
        ),
        (
            Method::POST,
            maps,
            JSON,
            format!("{{\"metadata\":{{\"name\":\"s3\",\"finalizers\":[{finalizers}]}}}}").into(),
        ),
        (Method::POST, pods.clone(), JSON, pod(format!("\"containers\":[{containers}]")).into()),
        (Method::POST, pods.clone(), JSON, pod(format!("\"containers\":[{same}]")).into()),
        (
            Method::POST,
            pods.clone(),
            JSON,
            pod(format!("\"containers\":[{{\"name\":\"c\",\"image\":\"i\",\"env\":[{env}]}}]")).into(),
        ),
        (Method::POST, pods, JSON, pod(format!("{one},\"topologySpreadConstraints\":[{spread}]")).into()),
        (
            Method::POST,
            services,
            JSON,
            format!("{{\"metadata\":{{\"name\":\"s\"}},\"spec\":{{\"ports\":[{ports}]}}}}").into(),
        ),
    ];
    let said = send_all(scene, By::Tenant, bodies, 2, refused_or_taken).await;
    // Finalizers of the attacker's own must not keep its namespace.
    let mut tenant = scene.connect(By::Tenant).await?;
    let free = r#"{"metadata":{"finalizers":null}}"#;
    scene
        .send(&mut tenant, Method::PATCH, &scene.path("configmaps/s3"), "application/merge-patch+json", free)
        .await?;
    said
}
