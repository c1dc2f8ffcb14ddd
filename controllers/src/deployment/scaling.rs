//! How large each ReplicaSet shall be: pure arithmetic over a view.

use std::cmp::Reverse;
use std::collections::HashMap;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::revision;
use super::view::{View, available, bounds, desired};
use crate::claims::uid;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Size {
    /// Uid of the ReplicaSet.
    pub(super) set: String,
    pub(super) replicas: i32,
}

fn size(set: &ReplicaSet, replicas: i32) -> Size {
    Size { set: uid(set).to_owned(), replicas }
}

/// What a new ReplicaSet starts with: as much as the surge leaves room for.
pub(super) fn first_size(view: &View) -> i32 {
    new_size(view, 0)
}

fn new_size(view: &View, now: i32) -> i32 {
    if view.is_recreate() {
        return view.replicas();
    }
    let limit = view.replicas() + bounds(&view.deployment).0;
    let total: i32 = view.all().map(desired).sum();
    if total >= limit { now } else { now + (limit - total).min(view.replicas() - now) }
}

/// Moves the new ReplicaSet towards the wanted size; empty if there is nothing to change.
pub(super) fn grow_new(view: &View) -> Vec<Size> {
    let Some(new) = &view.new else { return Vec::new() };
    let (now, wanted) = (desired(new), view.replicas());
    let next = if now > wanted { wanted } else { new_size(view, now) };
    if next == now { Vec::new() } else { vec![size(new, next)] }
}

/// Takes from the old ReplicaSets what is not needed to stay available: first pods that are not available anyway.
pub(super) fn shrink_old(view: &View) -> Vec<Size> {
    if view.old.iter().all(|set| desired(set) == 0) {
        return Vec::new();
    }
    let least = view.replicas() - bounds(&view.deployment).1;
    let total: i32 = view.all().map(desired).sum();
    let new_unavailable = view.new.as_ref().map_or(0, |new| desired(new) - available(new));
    let mut may_lose_unhealthy = total - least - new_unavailable;
    if may_lose_unhealthy <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = view.old.iter().map(desired).collect();
    for (set, size) in view.old.iter().zip(&mut sizes) {
        let cut = may_lose_unhealthy.min(*size - available(set)).max(0);
        *size -= cut;
        may_lose_unhealthy -= cut;
    }
    let mut may_lose = view.all().map(available).sum::<i32>() - least;
    for size in &mut sizes {
        let cut = may_lose.min(*size).max(0);
        *size -= cut;
        may_lose -= cut;
    }
    let changed = view.old.iter().zip(sizes).filter(|(set, size)| desired(set) != *size);
    changed.map(|(set, replicas)| size(set, replicas)).collect()
}

/// Recreate: the old ones end before the new one starts.
pub(super) fn stop_old(view: &View) -> Vec<Size> {
    view.old.iter().filter(|set| desired(set) > 0).map(|set| size(set, 0)).collect()
}

/// The Deployment was scaled in the middle of a rollout: each ReplicaSet gets its share.
pub(super) fn proportional(view: &View) -> Vec<Size> {
    if let Some(only) = active_or_latest(view) {
        return vec![size(only, view.replicas())];
    }
    if is_saturated(view) {
        return stop_old(view);
    }
    if view.is_recreate() {
        return Vec::new();
    }
    let mut active: Vec<&ReplicaSet> = view.all().filter(|set| desired(set) > 0).collect();
    let allowed = if view.replicas() > 0 { view.replicas() + bounds(&view.deployment).0 } else { 0 };
    let to_add = allowed - active.iter().map(|set| desired(set)).sum::<i32>();
    if to_add >= 0 {
        active.sort_by_key(|set| Reverse((desired(set), set.metadata.creation_timestamp.clone())));
    } else {
        active.sort_by_key(|set| (Reverse(desired(set)), set.metadata.creation_timestamp.clone()));
    }
    let mut added = 0;
    let mut shares = HashMap::new();
    for set in &active {
        let share = share(view, set, to_add, added);
        added += share;
        shares.insert(uid(*set), share);
    }
    // What rounding left over goes to the largest.
    if let Some(share) = active.first().and_then(|largest| shares.get_mut(uid(*largest))) {
        *share += to_add - added;
    }
    active.iter().map(|set| size(set, (desired(set) + shares[uid(*set)]).max(0))).collect()
}

/// The ReplicaSet that alone has pods, or that would be the first to have some.
fn active_or_latest(view: &View) -> Option<&ReplicaSet> {
    let mut active = view.all().filter(|set| desired(set) > 0);
    match (active.next(), active.next()) {
        (None, _) => view.new.as_ref().or(view.old.last()),
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// The new ReplicaSet is all that is wanted.
fn is_saturated(view: &View) -> bool {
    let wanted = view.replicas();
    view.new.as_ref().is_some_and(|new| {
        desired(new) == wanted
            && revision::number(new, revision::DESIRED_REPLICAS) == Some(i64::from(wanted))
            && available(new) == wanted
    })
}

fn share(view: &View, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(view, set);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

/// By how much a ReplicaSet changes if it keeps its part of the whole.
fn fraction(view: &View, set: &ReplicaSet) -> i32 {
    let now = desired(set);
    if view.replicas() == 0 {
        return -now;
    }
    let before = revision::number(set, revision::MAX_REPLICAS).filter(|before| *before > 0);
    let before = before.unwrap_or_else(|| i64::from(view.status().replicas.unwrap_or(0)));
    if before == 0 {
        return 0;
    }
    let largest = view.replicas() + bounds(&view.deployment).0;
    let new = (f64::from(now) * f64::from(largest) / before as f64).round();
    new as i32 - now
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// (image, desired, available, fitted-to) per ReplicaSet, oldest first; image "new" is the present template.
    fn view(replicas: i32, surge: i32, unavailable: i32, sets: &[(&str, i32, i32, i32)]) -> View {
        let template = |image: &str| json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "selector": {}, "template": template("new"),
                "strategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}},
        }));
        let sets = sets.iter().enumerate().map(|(i, (image, desired, available, fitted))| {
            serde_json::from_value(json!({
                "metadata": {"name": image, "uid": image,
                    "creationTimestamp": format!("2026-01-01T00:00:{i:02}Z"),
                    "annotations": {revision::DESIRED_REPLICAS: fitted.to_string(),
                        revision::MAX_REPLICAS: (fitted + surge).to_string()}},
                "spec": {"replicas": desired, "selector": {}, "template": template(image)},
                "status": {"replicas": desired, "availableReplicas": available},
            }))
            .unwrap()
        });
        View::new(deployment.unwrap(), sets.collect())
    }

    fn sizes(sizes: &[Size]) -> Vec<(&str, i32)> {
        sizes.iter().map(|s| (s.set.as_str(), s.replicas)).collect()
    }

    #[test]
    fn rolling_update_keeps_between_its_bounds() {
        assert_eq!(first_size(&view(10, 3, 2, &[("old", 10, 10, 10)])), 3);
        let v = view(10, 3, 2, &[("old", 10, 10, 10), ("new", 3, 0, 10)]);
        assert!(grow_new(&v).is_empty());
        assert_eq!(sizes(&shrink_old(&v)), [("old", 8)]);
        let v = view(10, 3, 2, &[("old", 8, 8, 10), ("new", 3, 3, 10)]);
        assert_eq!(sizes(&grow_new(&v)), [("new", 5)]);
        let v = view(10, 3, 2, &[("old", 8, 8, 10), ("new", 5, 3, 10)]);
        assert_eq!(sizes(&shrink_old(&v)), [("old", 5)]);
    }

    #[test]
    fn pods_that_are_not_available_go_first() {
        let v = view(10, 0, 2, &[("bad", 4, 0, 10), ("old", 8, 8, 10), ("new", 0, 0, 10)]);
        assert_eq!(sizes(&shrink_old(&v)), [("bad", 0)]);
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_is_proportional() {
        let v = view(20, 2, 2, &[("old", 8, 8, 10), ("new", 4, 2, 10)]);
        assert!(v.is_scaling());
        assert_eq!(sizes(&proportional(&v)), [("old", 15), ("new", 7)]);
        let v = view(5, 0, 2, &[("old", 8, 8, 10), ("new", 2, 2, 10)]);
        assert_eq!(sizes(&proportional(&v)), [("old", 4), ("new", 1)]);
        assert_eq!(sizes(&proportional(&view(7, 0, 1, &[("new", 3, 3, 3)]))), [("new", 7)]);
    }

    #[test]
    fn recreate_stops_the_old_first() {
        assert_eq!(sizes(&stop_old(&view(3, 0, 0, &[("old", 3, 3, 3)]))), [("old", 0)]);
    }
}
