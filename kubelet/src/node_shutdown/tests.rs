//! A machine that ends, by a logind of the test's own at the other end of a D-Bus connection.

use std::{
    collections::VecDeque,
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    io::AsyncBufReadExt,
    sync::{Notify, mpsc},
};
use zbus::{Connection, Fd, Guid, MessageStream, Variant, connection::Builder, message::Type};

use super::*;

/// What the fake knows, and is told to do.
#[derive(Default)]
struct Machine {
    preparing: Mutex<bool>,
    /// In microseconds: as it is, and as it will be after the configuration is read so many times.
    delay: Mutex<(u64, VecDeque<u64>)>,
    refuses_locks: Mutex<bool>,
    /// The other ends of the locks that were given.
    locks: Mutex<Vec<UnixStream>>,
    reloads: Mutex<u32>,
}

impl Machine {
    fn delay(&self) -> u64 {
        self.delay.lock().0
    }

    fn reload(&self) {
        *self.reloads.lock() += 1;
        let mut delay = self.delay.lock();
        delay.0 = delay.1.pop_front().unwrap_or(delay.0);
    }

    /// How many locks are held.
    fn held(&self) -> usize {
        let locks = self.locks.lock();
        let open = |lock: &&UnixStream| {
            lock.set_nonblocking(true).unwrap();
            (&mut &**lock).read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
        };
        locks.iter().filter(open).count()
    }
}

/// Answers as logind and systemd do, until the connection is closed.
async fn serve(bus: Connection, machine: Arc<Machine>) {
    let mut calls = MessageStream::from(&bus);
    while let Some(Ok(call)) = calls.next().await {
        if call.message_type() != Type::MethodCall {
            continue;
        }
        let header = call.header();
        let member = header.member().map(ToString::to_string).unwrap_or_default();
        let done = match member.as_str() {
            "Get" => {
                let (_, name): (String, String) = call.body().deserialize().unwrap();
                let value = match name.as_str() {
                    "PreparingForShutdown" => Variant::from(*machine.preparing.lock()),
                    "InhibitDelayMaxUSec" => Variant::from(machine.delay()),
                    other => panic!("{other} is asked for"),
                };
                bus.reply(&header, &value).await
            }
            "Inhibit" if *machine.refuses_locks.lock() => {
                bus.reply_error(&header, "org.freedesktop.DBus.Error.AccessDenied", &"Permission denied")
                    .await
            }
            "Inhibit" => {
                let (what, _, _, mode): (String, String, String, String) = call.body().deserialize().unwrap();
                assert_eq!((what.as_str(), mode.as_str()), ("shutdown", "delay"));
                let (ours, theirs) = UnixStream::pair().unwrap();
                machine.locks.lock().push(ours);
                bus.reply(&header, &Fd::from(OwnedFd::from(theirs))).await
            }
            "KillUnit" => {
                let (unit, who, signal): (String, String, i32) = call.body().deserialize().unwrap();
                assert_eq!(
                    (unit.as_str(), who.as_str(), signal),
                    ("systemd-logind.service", "all", libc::SIGHUP)
                );
                machine.reload();
                bus.reply(&header, &()).await
            }
            other => panic!("{other} is called"),
        };
        if done.is_err() {
            return;
        }
    }
}

/// Both ends of a connection without a bus between them.
async fn pair() -> (Connection, Connection) {
    let (near, far) = UnixStream::pair().unwrap();
    let server = Builder::unix_stream(far).server(Guid::generate()).p2p().build();
    let client = Builder::unix_stream(near).p2p().build();
    let (server, client) = tokio::join!(server, client);
    (server.unwrap(), client.unwrap())
}

struct Trial {
    machine: Arc<Machine>,
    bus: Connection,
    roster: Arc<Roster>,
    told: mpsc::Receiver<String>,
    ending: watch::Receiver<bool>,
    settings: tempfile::TempDir,
    watching: tokio::task::JoinHandle<LogindError>,
}

/// Time is paused: it goes on when nothing else does.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

const PERIODS: ShutdownPeriods =
    ShutdownPeriods { all: Duration::from_secs(30), critical: Duration::from_secs(10) };

fn pod(uid: &str, priority: i32) -> Arc<Pod> {
    let spec =
        serde_json::json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": 25});
    let pod = serde_json::json!({"metadata": {"name": uid, "uid": uid}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

impl Trial {
    async fn begin(machine: Machine, uids: &[(&str, i32)]) -> Trial {
        Self::over(pair().await, machine, uids)
    }

    fn over((bus, client): (Connection, Connection), machine: Machine, uids: &[(&str, i32)]) -> Trial {
        let machine = Arc::new(machine);
        tokio::spawn(serve(bus.clone(), machine.clone()));
        let roster = Arc::new(Roster::default());
        let pods: Vec<_> = uids.iter().map(|(uid, priority)| pod(uid, *priority)).collect();
        for (uid, _) in uids {
            roster.enter(uid, Arc::new(Notify::new()));
        }
        let ((tell, told), (sender, ending)) = (mpsc::channel(16), watch::channel(false));
        let settings = tempfile::tempdir().unwrap();
        let (path, known): (PathBuf, _) = (settings.path().join("conf.d"), roster.clone());
        let watching = tokio::spawn(async move {
            let concerned = Concerned {
                periods: PERIODS,
                roster: &known,
                pods: &|| pods.clone(),
                tell: &|message| tell.try_send(message.to_owned()).unwrap(),
            };
            let Err(error) = watch_over(Logind::over(client, path), &concerned, &sender).await;
            error
        });
        Trial { machine, bus, roster, told, ending, settings, watching }
    }

    /// The machine is about to end, or is not any more; and logind says so.
    async fn prepare(&self, now: bool) {
        *self.machine.preparing.lock() = now;
        self.say(now).await;
    }

    async fn say(&self, word: bool) {
        let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
        self.bus.emit_signal(None::<&str>, path, interface, "PrepareForShutdown", &word).await.unwrap();
    }

    async fn locks(&self, number: usize) {
        while self.machine.held() != number {
            rest().await;
        }
    }

    async fn ordered(&self, uid: &str) -> Eviction {
        loop {
            match self.roster.order(uid) {
                Some(order) => return order,
                None => rest().await,
            }
        }
    }
}

fn patient(delay: u64) -> Machine {
    Machine { delay: Mutex::new((delay, VecDeque::new())), ..Machine::default() }
}

const ENOUGH: u64 = 30_000_000;

#[tokio::test(start_paused = true)]
async fn pods_end_before_the_machine_does_the_critical_ones_last() {
    let mut trial = Trial::begin(patient(ENOUGH), &[("app", 0), ("slow", 7), ("dns", 2_000_000_000)]).await;
    trial.locks(1).await;
    assert!(!trial.settings.path().join("conf.d").exists(), "logind waits long enough as it is");
    assert!(admit(*trial.ending.borrow()).is_ok());
    trial.prepare(true).await;
    let order = trial.ordered("app").await;
    assert_eq!((order.reason, order.grace, order.disruption), ("Terminated", 20, true));
    assert_eq!(order.message, "Pod was terminated in response to imminent node shutdown.");
    assert_eq!(trial.ordered("slow").await.grace, 20);
    assert_eq!(trial.told.recv().await.unwrap(), "Shutdown manager detected shutdown event");
    assert!(*trial.ending.borrow_and_update());
    assert_eq!(admit(true).unwrap_err().reason, "NodeShutdown");
    trial.roster.tell_ended("app");
    assert!(trial.roster.order("dns").is_none(), "the others come first");
    trial.roster.tell_ended("slow");
    assert_eq!(trial.ordered("dns").await.grace, 10);
    assert_eq!(trial.machine.held(), 1, "the machine waits");
    trial.roster.leave("dns");
    trial.locks(0).await;
    // Somebody has thought better of it.
    trial.prepare(false).await;
    assert_eq!(trial.told.recv().await.unwrap(), "Shutdown manager detected shutdown cancellation");
    trial.locks(1).await;
    assert!(!*trial.ending.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_end_holds_the_machine_up_for_its_time_only() {
    let trial = Trial::begin(patient(ENOUGH), &[("stuck", 0), ("dns", 2_000_000_000)]).await;
    trial.locks(1).await;
    trial.prepare(true).await;
    trial.ordered("stuck").await;
    let begun = Instant::now();
    let elapsed = || begun.elapsed().as_secs_f64().round();
    trial.ordered("dns").await;
    assert!((elapsed() - 20.0).abs() < 0.5, "{}", elapsed());
    trial.locks(0).await;
    assert!((elapsed() - 30.0).abs() < 0.5, "{}", elapsed());
}

/// Any user may send a signal to whoever is on the system's bus.
#[tokio::test(start_paused = true)]
async fn a_word_that_logind_does_not_confirm_ends_nothing() {
    let mut trial = Trial::begin(patient(ENOUGH), &[("app", 0)]).await;
    trial.locks(1).await;
    for _ in 0..500 {
        trial.say(true).await;
    }
    trial.say(false).await;
    // What follows is seen after all that.
    trial.prepare(true).await;
    trial.ordered("app").await;
    assert_eq!(trial.machine.locks.lock().len(), 1, "one lock is enough");
    assert_eq!(trial.told.recv().await.unwrap(), "Shutdown manager detected shutdown event");
    assert!(trial.told.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_ends_already_is_found_so() {
    let machine = patient(ENOUGH);
    *machine.preparing.lock() = true;
    let trial = Trial::begin(machine, &[("app", 0)]).await;
    trial.ordered("app").await;
    assert_eq!(trial.machine.held(), 0, "there are no new locks now");
    assert!(*trial.ending.borrow());
}

#[tokio::test(start_paused = true)]
async fn logind_is_made_to_wait_long_enough() {
    let machine = Machine { delay: Mutex::new((5_000_000, [ENOUGH].into())), ..Machine::default() };
    let trial = Trial::begin(machine, &[]).await;
    trial.locks(1).await;
    let file = trial.settings.path().join("conf.d/99-coracle.conf");
    assert!(std::fs::read_to_string(file).unwrap().ends_with("[Login]\nInhibitDelayMaxSec=30\n"));
    assert_eq!(*trial.machine.reloads.lock(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_logind_that_does_not_wait_so_long_is_better_than_none() {
    let trial = Trial::begin(patient(5_000_000), &[("app", 0)]).await;
    while *trial.machine.reloads.lock() == 0 {
        rest().await;
    }
    trial.locks(1).await;
    trial.prepare(true).await;
    trial.ordered("app").await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_refused_or_a_bus_that_goes_is_told() {
    let machine = patient(ENOUGH);
    *machine.refuses_locks.lock() = true;
    let trial = Trial::begin(machine, &[("app", 0)]).await;
    let error = trial.watching.await.unwrap();
    assert!(error.to_string().contains("Permission denied"), "{error}");
    assert!(trial.roster.order("app").is_none() && !*trial.ending.borrow());

    let trial = Trial::begin(patient(ENOUGH), &[]).await;
    trial.locks(1).await;
    trial.bus.close().await.unwrap();
    let error = trial.watching.await.unwrap();
    assert!(matches!(error, LogindError::Closed | LogindError::Bus { .. }), "{error}");
    assert_eq!(trial.machine.held(), 0);
}

/// As on a machine: others are on the bus as well, and it is the bus that passes signals on.
#[tokio::test]
async fn over_a_bus() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("bus.conf");
    let text = format!(
        r#"<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">
        <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#,
        dir.path().join("bus").display()
    );
    std::fs::write(&config, text).unwrap();
    let daemon = tokio::process::Command::new("dbus-daemon")
        .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1", "--config-file"])
        .arg(&config)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut daemon) = daemon else { return println!("skipped: no dbus-daemon") };
    let mut lines = tokio::io::BufReader::new(daemon.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().expect("an address");
    let join = || async { Builder::address(&*address).build().await.unwrap() };
    let (bus, client, liar) = (join().await, join().await, join().await);
    for name in ["org.freedesktop.login1", "org.freedesktop.systemd1"] {
        bus.request_name(name).await.unwrap();
    }
    let own = client.unique_name().unwrap().to_string();
    let mut trial = Trial::over((bus, client), patient(ENOUGH), &[("app", 0)]);
    trial.locks(1).await;
    let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
    for to in [None, Some(own.as_str())] {
        liar.emit_signal(to, path, interface, "PrepareForShutdown", &true).await.unwrap();
    }
    trial.say(false).await;
    trial.prepare(true).await;
    trial.ordered("app").await;
    assert_eq!(trial.told.recv().await.unwrap(), "Shutdown manager detected shutdown event");
    trial.roster.tell_ended("app");
    trial.locks(0).await;
    daemon.kill().await.unwrap();
    let error = trial.watching.await.unwrap();
    assert!(matches!(error, LogindError::Closed | LogindError::Bus { .. }), "{error}");
}
