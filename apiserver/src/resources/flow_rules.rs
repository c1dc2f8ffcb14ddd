//! What flow schemas and priority levels may say.

use super::located::Located;
use super::validation::Errors;
use crate::field_names::{dns1123_label, dns1123_subdomain};

/// The level that nothing limits, and the schema that leads to it: they have rules of their own.
const EXEMPT: &str = "exempt";
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const MOST_QUEUES: i64 = 10_000_000;
/// How many bits of a request's hash choose its queues at most.
const HASH_BITS: f64 = 60.0;

pub(super) fn schema(name: &str, spec: &Located<'_>, errors: &mut Errors) {
    let precedence = spec.at("matchingPrecedence");
    match precedence.number().unwrap_or(0) {
        n @ ..=0 => errors.invalid(precedence.path(), n, "must be a positive value"),
        10_001.. => precedence.wrong("must not be greater than 10000", errors),
        1 if name != EXEMPT => {
            precedence.wrong("only the schema named 'exempt' may have matchingPrecedence 1", errors);
        }
        _ => {}
    }
    let method = spec.at("distinguisherMethod");
    if method.is_set() && !["ByNamespace", "ByUser"].contains(&method.at("type").text()) {
        // Upstream shows the whole method where its type is wrong.
        let path = method.at("type").path().to_owned();
        errors.unsupported_text(path, method.shown(), &["ByNamespace", "ByUser"]);
    }
    let level = spec.at("priorityLevelConfiguration").at("name");
    match level.text() {
        "" => level.missing("must reference a priority level", errors),
        _ => level.obeys(dns1123_subdomain, errors),
    }
    spec.at("rules").each().for_each(|r| rule(&r, errors));
}

fn rule(at: &Located<'_>, errors: &mut Errors) {
    let subjects = at.at("subjects");
    if subjects.is_empty() {
        subjects.missing("subjects must contain at least one value", errors);
    }
    subjects.each().for_each(|s| subject(&s, errors));
    let (resources, others) = (at.at("resourceRules"), at.at("nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        at.missing("at least one of resourceRules and nonResourceRules has to be non-empty", errors);
    }
    for rule in resources.each() {
        verbs(&rule.at("verbs"), errors);
        for (list, one, many) in
            [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
        {
            let list = rule.at(list);
            if list.is_empty() {
                list.missing(&format!("resource rules must supply at least one {one}"), errors);
            } else {
                alone(&list, many, errors);
            }
        }
        namespaces(&rule, errors);
    }
    for rule in others.each() {
        verbs(&rule.at("verbs"), errors);
        urls(&rule.at("nonResourceURLs"), errors);
    }
}

fn has_all(list: &Located<'_>) -> bool {
    list.each().any(|item| item.text() == "*")
}

/// `*` stands for all of a list, and alone.
fn alone(list: &Located<'_>, others: &str, errors: &mut Errors) {
    if list.len() > 1 && has_all(list) {
        list.wrong(format!("if '*' is present, must not specify other {others}"), errors);
    }
}

fn verbs(list: &Located<'_>, errors: &mut Errors) {
    if list.is_empty() {
        list.missing("verbs must contain at least one value", errors);
    } else if has_all(list) {
        alone(list, "verbs", errors);
    } else if list.each().any(|verb| !VERBS.contains(&verb.text())) {
        errors.unsupported_text(list.path(), list.shown(), &VERBS);
    }
}

fn namespaces(rule: &Located<'_>, errors: &mut Errors) {
    let list = rule.at("namespaces");
    if list.is_empty() && !rule.at("clusterScope").is_true() {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        list.missing(why, errors);
    } else if has_all(&list) {
        alone(&list, "namespaces", errors);
    } else {
        for name in list.each() {
            for why in dns1123_label(name.text()) {
                let intro = "each member of this list must be '*' or a DNS-1123 label; ";
                name.wrong(format!("{intro}{why}"), errors);
            }
        }
    }
}

fn urls(list: &Located<'_>, errors: &mut Errors) {
    if list.is_empty() {
        list.missing("nonResourceURLs must contain at least one value", errors);
    } else if has_all(list) {
        alone(list, "non-resource URLs", errors);
    } else {
        for url in list.each() {
            url.breaks(wrong_url(url.text()).map(str::to_owned).into_iter().collect(), errors);
        }
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn subject(at: &Located<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] =
        [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = at.at("kind");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        let shown = format!("{:?}", kind.text());
        return errors.unsupported_text(kind.path(), shown, &["Group", "ServiceAccount", "User"]);
    };
    let who = at.at(own);
    if !who.is_set() {
        who.missing(&format!("{own} is required when subject kind is '{}'", kind.text()), errors);
    } else {
        let name = who.at("name");
        if name.required(errors) && *own == "serviceAccount" && name.text() != "*" {
            name.obeys(dns1123_subdomain, errors);
        }
        if *own == "serviceAccount" {
            let namespace = who.at("namespace");
            match namespace.text() {
                "" => namespace.missing("must specify namespace for service account", errors),
                _ => namespace.obeys(dns1123_label, errors),
            }
        }
    }
    // The others in upstream's order: accounts before users before groups, but users before groups for accounts.
    for (name, field) in KINDS.iter().filter(|(_, field)| field != own) {
        if at.at(field).is_set() {
            let why = format!("{field} is forbidden when subject kind is not '{name}'");
            at.at(field).forbidden(why, errors);
        }
    }
}

pub(super) fn level(name: &str, spec: &Located<'_>, errors: &mut Errors) {
    let (kind, exempt, limited) = (spec.at("type"), spec.at("exempt"), spec.at("limited"));
    if (name == EXEMPT) != (kind.text() == "Exempt") {
        errors.invalid(kind.path(), kind.text(), "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden("must be nil if the type is not Limited", errors);
            }
            exempt.at("nominalConcurrencyShares").at_least(0, "must be a non-negative integer", errors);
            percent(&exempt.at("lendablePercent"), errors);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden("must be nil if the type is Limited", errors);
            }
            if limited.is_set() {
                self::limited(&limited, errors);
            } else {
                limited.missing("must not be empty when type is Limited", errors);
            }
        }
        "" => kind.missing("", errors),
        _ => kind.one_of(&["Exempt", "Limited"], errors),
    }
}

fn percent(at: &Located<'_>, errors: &mut Errors) {
    if at.number().is_some_and(|n| !(0..=100).contains(&n)) {
        at.wrong("must be between 0 and 100, inclusive", errors);
    }
}

fn limited(at: &Located<'_>, errors: &mut Errors) {
    at.at("nominalConcurrencyShares").at_least(0, "must be a non-negative integer", errors);
    let response = at.at("limitResponse");
    let (kind, queuing) = (response.at("type"), response.at("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => {
            queuing.forbidden("must be nil if limited.limitResponse.type is not Limited", errors);
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => queues(&queuing, errors),
        "Queue" => queuing.missing("must not be empty if limited.limitResponse.type is Limited", errors),
        "" => kind.missing("", errors),
        _ => kind.one_of(&["Queue", "Reject"], errors),
    }
    percent(&at.at("lendablePercent"), errors);
    let why = "if specified, must be a non-negative integer";
    at.at("borrowingLimitPercent").at_least(0, why, errors);
}

fn queues(at: &Located<'_>, errors: &mut Errors) {
    let [length, queues, hand] = ["queueLengthLimit", "queues", "handSize"].map(|f| at.at(f));
    let number = |at: &Located<'_>| at.number().unwrap_or(0);
    let (decks, cards) = (number(&queues), number(&hand));
    if number(&length) <= 0 {
        errors.invalid(length.path(), number(&length), "must be positive");
    }
    if decks <= 0 {
        errors.invalid(queues.path(), decks, "must be positive");
    } else if decks > MOST_QUEUES {
        queues.wrong(format!("must not be greater than {MOST_QUEUES}"), errors);
    }
    if cards <= 0 {
        errors.invalid(hand.path(), cards, "must be positive");
    } else if cards > decks {
        hand.wrong(format!("should not be greater than queues ({decks})"), errors);
    } else if bits(decks, cards) > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {decks} and handSize {cards} should not be greater than {HASH_BITS}"
        );
        hand.wrong(why, errors);
    }
}

/// How many bits choose so many of so many queues.
#[expect(clippy::cast_precision_loss, reason = "an estimate of numbers far below 2^52")]
fn bits(queues: i64, hand: i64) -> f64 {
    ((queues as f64).log2() * hand as f64).ceil()
}

/// Conditions of these kinds: each type once.
pub(super) fn status(status: &Located<'_>, errors: &mut Errors) {
    let mut seen = vec![];
    for kind in status.at("conditions").each().map(|c| c.at("type")) {
        if seen.contains(&kind.text()) {
            kind.duplicate(errors);
        }
        seen.push(kind.text());
        kind.required(errors);
    }
}
