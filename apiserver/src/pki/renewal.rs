//! Certificates are made anew before they end, while the program runs: one loop for each, whoever signs it and whoever
//! uses it.
//!
//! The loop waits for a time of day and is woken when the clock is set. A certificate that does not hold at the time it is
//! then is replaced at once. Connections that are open go on with what they were made with.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use coracle_api::panics;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::{EARLIEST, Identity, Validity};

/// The pause after a renewal that failed, doubled while it goes on failing; upstream's first one.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// How long the loop relies on being woken.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// Who signs a certificate, and where it is kept for the next start.
pub trait Source: Send + Sync {
    /// A certificate with a new key.
    fn obtain(&self, now: Timestamp) -> BoxFuture<'_, anyhow::Result<Identity>>;

    /// Keeps it where the next start finds it. May block.
    fn keep(&self, identity: &Identity) -> anyhow::Result<()>;

    /// Takes note of an attempt: of the certificate in use from now on, or of a failure.
    fn note(&self, _outcome: Result<&Validity, &anyhow::Error>) {}

    /// The authority that signs, where it is ours: who uses the certificate is given it again when that is renewed.
    fn signer(&self) -> Option<watch::Receiver<Identity>> {
        None
    }
}

/// Who shows a certificate, or passes it on.
pub trait Uses: Send + Sync {
    /// Uses this one from now on. May block.
    fn take(&self, identity: &Identity) -> anyhow::Result<()>;
}

/// A certificate that is renewed.
pub struct Renewed {
    /// What it is called in the log and in metrics.
    pub name: String,
    source: Box<dyn Source>,
    used_by: Vec<Arc<dyn Uses>>,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    identity: Identity,
    validity: Validity,
    /// What was used before: after a clock is set back, it may be this one that holds.
    former: Option<(Identity, Validity)>,
    /// Not everybody has the certificate yet that is there already.
    unfinished: bool,
}

// === impl Renewed ===

impl Renewed {
    /// `identity` is what is in use, and kept, already.
    pub fn new(
        name: &str,
        identity: Identity,
        source: Box<dyn Source>,
        used_by: Vec<Arc<dyn Uses>>,
    ) -> anyhow::Result<Arc<Self>> {
        let validity = Validity::of(&identity.certificate)?;
        source.note(Ok(&validity));
        let state = Mutex::new(State { identity, validity, former: None, unfinished: false });
        Ok(Arc::new(Renewed { name: name.to_owned(), source, used_by, state }))
    }

    /// What is in use.
    pub fn identity(&self) -> Identity {
        self.state.lock().identity.clone()
    }

    /// When it is to be renewed; now, where it is not usable now.
    pub fn due(&self, now: Timestamp) -> Timestamp {
        let state = self.state.lock();
        match state.validity.holds(now) && !state.unfinished {
            true => state.validity.renew_at(),
            // The clock of a board without a battery that nobody has set yet: nothing made now would be of use later.
            false => now.max(Timestamp::from_second(EARLIEST).unwrap_or(now)),
        }
    }

    /// Makes what is due.
    async fn renew(self: &Arc<Self>, now: Timestamp) -> anyhow::Result<()> {
        let state = self.state.lock().clone();
        let usable = state.validity.holds(now);
        if state.unfinished && usable {
            return self.hand_over(state.identity, now, usable).await;
        }
        if !usable {
            tracing::warn!(
                certificate = self.name, %now, not_before = %state.validity.not_before,
                not_after = %state.validity.not_after,
                "a certificate does not hold at this time; has the clock been set? It is made anew"
            );
            if let Some((former, _)) = state.former.filter(|(_, validity)| validity.holds(now)) {
                // What signs may have to be asked with it.
                self.give(former).await?;
            }
        }
        let identity = self.source.obtain(now).await?;
        self.hand_over(identity, now, usable).await
    }

    /// Keeps a new certificate, then gives it to who uses it. One that cannot be kept is used only where the old one is of
    /// no use any more.
    async fn hand_over(
        self: &Arc<Self>,
        identity: Identity,
        now: Timestamp,
        usable: bool,
    ) -> anyhow::Result<()> {
        let validity = Validity::of(&identity.certificate)?;
        let (this, new) = (self.clone(), identity.clone());
        let kept = tokio::task::spawn_blocking(move || this.source.keep(&new)).await?;
        if usable && kept.is_err() {
            return kept;
        }
        let given = self.give(identity.clone()).await;
        let outcome = kept.and(given);
        let mut state = self.state.lock();
        let another = state.identity.certificate != identity.certificate;
        if another {
            let former = (std::mem::replace(&mut state.identity, identity), state.validity);
            state.former = Some(former);
            state.validity = validity;
        }
        state.unfinished = outcome.is_err();
        drop(state);
        if another {
            tracing::info!(certificate = self.name, %now, not_after = %validity.not_after, "a certificate is renewed");
        }
        outcome
    }

    async fn give(self: &Arc<Self>, identity: Identity) -> anyhow::Result<()> {
        let this = self.clone();
        let all = move || {
            // Who fails does not keep others from it.
            let each: Vec<anyhow::Result<()>> =
                this.used_by.iter().map(|user| user.take(&identity)).collect();
            each.into_iter().collect()
        };
        tokio::task::spawn_blocking(all).await?
    }

    async fn keep_alive(self: &Arc<Self>, clock: &dyn Clock) {
        let mut pause = PAUSE.0;
        let mut signer = self.source.signer();
        loop {
            let now = clock.now();
            let due = self.due(now);
            if due > now {
                tokio::select! {
                    // Should nothing wake it (a timer that was armed just after the clock was set), it looks once a day.
                    () = clock.until(due.min(now.saturating_add(LOOK_AGAIN).unwrap_or(due))) => {}
                    () = replaced(signer.as_mut()) => self.state.lock().unfinished = true,
                }
                continue;
            }
            // Also one that panics is tried again.
            let tried = AssertUnwindSafe(self.renew(now)).catch_unwind().await;
            let outcome = tried
                .unwrap_or_else(|panic| Err(anyhow!("it panicked: {}", panics::count("renewal", &*panic))))
                .and_then(|()| {
                    // What signs has another clock; asking again at once would not help.
                    let due = self.due(now);
                    (due > now).then_some(()).context("the new certificate is to be renewed already")
                });
            let validity = self.state.lock().validity;
            self.source.note(outcome.as_ref().map(|()| &validity));
            match outcome {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    tracing::error!(
                        certificate = self.name, not_after = %validity.not_after,
                        "a certificate is not renewed, the old one is used on: {error:#}"
                    );
                    // The clock may make another try worth while sooner.
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = clock.until(now.saturating_add(LOOK_AGAIN).unwrap_or(now)) => {}
                    }
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}

/// Waits for another authority; for ever where none comes.
async fn replaced(signer: Option<&mut watch::Receiver<Identity>>) {
    let changed = match signer {
        Some(signer) => signer.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

/// Keeps all of them valid until `stop`.
pub async fn run(all: Vec<Arc<Renewed>>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let each = all.iter().map(|one| one.keep_alive(&*clock));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = join_all(each) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use rcgen::{CertificateParams, KeyPair};

    use super::super::clock::SetClock;
    use super::super::{Authority, ClientCertificate, Leaf, Pki, Signs, new_authority};
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn run_one(one: &Arc<Renewed>, clock: &Arc<SetClock>) -> tokio_util::sync::DropGuard {
        let stop = CancellationToken::new();
        tokio::spawn(run(vec![one.clone()], clock.clone(), stop.clone()));
        stop.drop_guard()
    }

    /// A signer whose certificates begin five minutes ago and live for a year, as the cluster's controller makes them.
    #[derive(Default)]
    struct Signer {
        asked: AtomicUsize,
        refuses: AtomicBool,
        panics: AtomicBool,
    }

    impl Signer {
        fn sign(now: Timestamp) -> Identity {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            for (time, at) in [(&mut params.not_before, now), (&mut params.not_after, now + DAY * 365)] {
                let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
                let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
                *time = rcgen::date_time_ymd(date.year().into(), month, day);
            }
            Identity { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
        }
    }

    impl Source for Arc<Signer> {
        fn obtain(&self, now: Timestamp) -> BoxFuture<'_, anyhow::Result<Identity>> {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::Relaxed);
                assert!(!self.panics.swap(false, Ordering::Relaxed), "a fault in what signs");
                anyhow::ensure!(!self.refuses.load(Ordering::Relaxed), "the store refuses");
                Ok(Signer::sign(now))
            })
        }

        fn keep(&self, _: &Identity) -> anyhow::Result<()> {
            Ok(())
        }
    }

    /// Who notes what it was given.
    #[derive(Default)]
    struct Given(Mutex<Vec<String>>);

    impl Uses for Given {
        fn take(&self, identity: &Identity) -> anyhow::Result<()> {
            self.0.lock().push(identity.certificate.clone());
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_cannot_be_kept_is_used_on_and_tried_again() {
        let (dir, start) = (tempfile::tempdir().unwrap(), at("2026-12-01T00:00:00Z"));
        let clock = SetClock::new(start);
        let pki = Arc::new(Pki::open(dir.path(), start).unwrap().with_clock(clock.clone()));
        let leaf = Leaf::front_proxy_client();
        let shown = ClientCertificate::new(&pki.issue(&leaf, start).unwrap()).unwrap();
        let one = pki.renewed(leaf.clone(), vec![shown.clone()]).unwrap();
        let (old, first) = (one.identity().certificate, shown.current());
        let _running = run_one(&one, &clock);
        clock.waited_for_by(1).await;
        let errors = || pki.renewals()[&leaf.file].errors;
        let on_disk = || fs::read_to_string(dir.path().join("front-proxy-client.crt")).unwrap();

        // Nothing can be written: the old one is used on, and further tries come at longer and longer intervals.
        let full = dir.path().join(".front-proxy-client.key.new");
        fs::create_dir(&full).unwrap();
        clock.pass_to(one.due(start));
        clock.waited_for_by(1).await;
        assert_eq!(errors(), 1);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(errors(), 4, "after 2, 6 and 14 seconds");
        assert_eq!((one.identity().certificate, on_disk()), (old.clone(), old.clone()));
        assert!(Arc::ptr_eq(&first, &shown.current()));
        fs::remove_dir(&full).unwrap();
        tokio::time::sleep(Duration::from_secs(16)).await;
        let new = one.identity().certificate;
        assert_ne!(new, old);
        assert_eq!(on_disk(), new);
        assert!(!Arc::ptr_eq(&first, &shown.current()));

        // The old one is over, and still nothing can be written: the new one is used, and kept when that goes.
        fs::create_dir(&full).unwrap();
        clock.pass_to(clock.now() + DAY * 400);
        clock.waited_for_by(1).await;
        let newest = one.identity().certificate;
        assert!(Validity::of(&newest).unwrap().holds(clock.now()));
        assert_eq!(on_disk(), new);
        fs::remove_dir(&full).unwrap();
        tokio::time::sleep(PAUSE.1).await;
        assert_eq!((on_disk(), one.identity().certificate), (newest.clone(), newest));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signer_that_refuses_is_asked_again_with_patience() {
        let start = at("2026-12-01T00:00:00Z");
        let (clock, signer, given) =
            (SetClock::new(start), Arc::new(Signer::default()), Arc::new(Given::default()));
        let source = Box::new(signer.clone());
        let one = Renewed::new("node", Signer::sign(start), source, vec![given.clone()]).unwrap();
        let _running = run_one(&one, &clock);
        signer.refuses.store(true, Ordering::Relaxed);
        signer.panics.store(true, Ordering::Relaxed);
        clock.pass_to(one.due(start));
        clock.waited_for_by(1).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let asked = signer.asked.load(Ordering::Relaxed);
        assert!((10..=25).contains(&asked), "{asked} times in an hour");
        assert!(given.0.lock().is_empty());
        signer.refuses.store(false, Ordering::Relaxed);
        tokio::time::sleep(PAUSE.1).await;
        assert_eq!(given.0.lock().len(), 1);
        assert!(one.due(clock.now()) > clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_noticed() {
        let start = at("2026-12-01T00:00:00Z");
        let (clock, signer, given) =
            (SetClock::new(start), Arc::new(Signer::default()), Arc::new(Given::default()));
        let first = Signer::sign(start);
        let source = Box::new(signer.clone());
        let one = Renewed::new("node", first.clone(), source, vec![given.clone()]).unwrap();
        let _running = run_one(&one, &clock);
        let asked = || signer.asked.load(Ordering::Relaxed);
        let holds = || Validity::of(&one.identity().certificate).unwrap().holds(clock.now());
        clock.waited_for_by(1).await;
        // Ahead by more than a year: at once another.
        clock.set(start + DAY * 400);
        clock.waited_for_by(1).await;
        assert_eq!((asked(), holds()), (1, true));
        // Back again: that one does not hold yet. Who signs is asked with the one before, which does.
        clock.set(start + DAY * 30);
        clock.waited_for_by(1).await;
        assert_eq!((asked(), holds()), (2, true));
        assert_eq!(given.0.lock()[1], first.certificate);
        // A board without a battery: nothing is asked for before the clock shows a time that can be.
        clock.set(Timestamp::UNIX_EPOCH);
        clock.waited_for_by(1).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!((asked(), holds()), (2, false));
        clock.set(start + DAY * 31);
        clock.waited_for_by(1).await;
        assert_eq!((asked(), holds()), (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_made_in_1970_serves_whenever_the_clock_is_set() {
        let clock = SetClock::new(at("1970-01-01T00:00:20Z"));
        let pki = Arc::new(Pki::ephemeral(clock.now()).unwrap().with_clock(clock.clone()));
        let one = pki.renewed(Leaf::admin(), vec![]).unwrap();
        let _running = run_one(&one, &clock);
        clock.waited_for_by(1).await;
        let mut seen = std::collections::BTreeSet::new();
        for now in
            ["2026-12-01T00:00:00Z", "2026-11-01T00:00:00Z", "2028-01-05T00:00:00Z", "2027-12-06T00:00:00Z"]
        {
            clock.set(at(now));
            clock.waited_for_by(1).await;
            let certificate = one.identity().certificate;
            assert!(Validity::of(&certificate).unwrap().holds(clock.now()), "{now}");
            seen.insert(certificate);
        }
        assert_eq!(seen.len(), 2, "made anew once: beyond its end");
    }

    #[tokio::test(start_paused = true)]
    async fn an_authority_is_renewed_with_its_key_and_its_name() {
        let (dir, start) = (tempfile::tempdir().unwrap(), at("2026-12-01T00:00:00Z"));
        let clock = SetClock::new(start);
        let pki = Arc::new(Pki::open(dir.path(), start).unwrap().with_clock(clock.clone()));
        let (old, leaf) = (pki.cluster_authority(), pki.issue(&Leaf::admin(), start).unwrap());
        let one = pki.renewed_authorities().unwrap().remove(0);
        let _running = run_one(&one, &clock);
        let due = one.due(start);
        assert!((7 * 365..=9 * 365).contains(&(due.duration_since(start).as_hours() / 24)), "{due}");
        clock.pass_to(due);
        clock.waited_for_by(1).await;
        let new = pki.cluster_authority();
        assert!(new.certificate != old.certificate && new.key == old.key);
        let serial = |one: &Identity| one.read(|c| c.raw_serial().to_vec()).unwrap();
        assert_ne!(serial(&new), serial(&old));
        // Each is trusted for what the other has signed.
        let later = pki.sign(&Leaf::admin(), due).unwrap();
        for (authority, leaf) in [(&old, &later), (&new, &leaf)] {
            let trusted = authority.read(|ca| {
                leaf.read(|leaf| {
                    leaf.issuer() == ca.subject() && leaf.verify_signature(Some(ca.public_key())).is_ok()
                })
            });
            assert_eq!(trusted, Some(Some(true)));
        }
        assert_eq!(Pki::open(dir.path(), due).unwrap().ca(), new.certificate, "and a start finds it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_passes_an_authority_on_is_told_of_another() {
        let start = at("2026-12-01T00:00:00Z");
        let clock = SetClock::new(start);
        let pki = Arc::new(Pki::ephemeral(start).unwrap().with_clock(clock.clone()));
        let given = Arc::new(Given::default());
        let one = pki.renewed(Leaf::admin(), vec![given.clone()]).unwrap();
        let _running = run_one(&one, &clock);
        clock.waited_for_by(1).await;
        let certificate = one.identity().certificate;
        let again = new_authority(Authority::Cluster, &KeyPair::generate().unwrap(), start).unwrap();
        let mut follows = pki.follow(Authority::Cluster);
        Signs(pki.clone(), Authority::Cluster).take(&again).unwrap();
        follows.changed().await.unwrap();
        assert_eq!(pki.ca(), again.certificate);
        clock.waited_for_by(1).await;
        while given.0.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            *given.0.lock(),
            [certificate.clone(), certificate],
            "the same, to be passed on with the new one"
        );
    }
}
