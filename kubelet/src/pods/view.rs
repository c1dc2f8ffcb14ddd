//! What is known of one pod at one moment: the input of `plan` and of `status`.

use std::{collections::BTreeMap, net::IpAddr};

use coracle_api::resources::is_sidecar;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements};

use super::{allocation::Pending, crash_loop::CrashLoop, resize::Progress};
use crate::cri::{ContainerRecord, ContainerState};

/// The state of a pod on this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodView {
    /// Volumes are mounted and the sandbox has its network.
    pub(crate) sandbox: SandboxView,
    /// A job makes the sandbox or mounts the volumes.
    pub(crate) setting_up: bool,
    /// This process has mounted the volumes: not yet true of an adopted sandbox.
    pub(crate) mounted: bool,
    /// A job takes down what is left on the node.
    pub(crate) tearing_down: bool,
    pub(crate) torn_down: TornDown,
    /// The API says Succeeded or Failed, and that is for ever.
    pub(crate) over: bool,
    /// Keyed by the container's name, all three lists of the spec together (names are unique across them).
    pub(crate) containers: BTreeMap<String, ContainerView>,
    /// The pod shall not run here any more, and why: rejected, deadline exceeded, evicted.
    pub(crate) doomed: Option<Doom>,
    /// The pod is being deleted; all must stop within this many seconds from `since`.
    pub(crate) terminating: Option<Terminating>,
    pub(crate) start_time: Option<Timestamp>,
    /// Why the resources the spec wishes are not granted yet.
    pub(crate) pending: Option<Pending>,
    /// What was granted is not all there yet.
    pub(crate) progress: Option<Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terminating {
    pub(crate) since: Timestamp,
    pub(crate) grace: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doom {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Evicted: the seconds it has to end. What it wrote is not kept: the node needs the room.
    pub(crate) grace: Option<i64>,
    /// Told as a disruption.
    pub(crate) disruption: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum SandboxView {
    #[default]
    Absent,
    /// A job makes it, or the last try failed and the next one waits until then.
    Pending {
        retry_at: Option<Timestamp>,
    },
    Ready {
        ips: Vec<IpAddr>,
    },
}

/// How much of an ended pod is gone from the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TornDown {
    #[default]
    Nothing,
    /// Network and volumes; exit records and logs are kept for whoever asks.
    Ended,
    /// Everything but the logs.
    Removed,
}

impl SandboxView {
    pub(crate) fn ips(&self) -> &[IpAddr] {
        match self {
            SandboxView::Ready { ips } => ips,
            SandboxView::Absent | SandboxView::Pending { .. } => &[],
        }
    }
}

/// One container of the pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerView {
    /// The newest attempt.
    pub(crate) current: Option<ContainerRecord>,
    /// The attempt before it.
    pub(crate) last: Option<ContainerRecord>,
    /// Termination messages by container id.
    pub(crate) messages: BTreeMap<String, String>,
    /// A job pulls its image or creates it.
    pub(crate) launching: bool,
    /// Why the last launch failed, until the next succeeds.
    pub(crate) waiting: Option<Waiting>,
    /// No launch before this moment.
    pub(crate) retry_at: Option<Timestamp>,
    /// When the image could not be had: `ErrImagePull` turns into `ImagePullBackOff` soon after.
    pub(crate) pull_failed_at: Option<Timestamp>,
    /// The present back-off was told in an event.
    pub(crate) backoff_told: bool,
    /// The back-off that follows the current attempt's end.
    pub(crate) crash: CrashLoop,
    /// Restarts known from the API, when the runtime's record is lost.
    pub(crate) restarts: u32,
    /// The container is known to have run (from the API), though its record is lost.
    pub(crate) probe: ProbeView,
    /// A liveness or startup probe, or a postStart hook, asked for its end.
    pub(crate) condemned: Option<Condemned>,
    pub(crate) stopping: Option<Stopping>,
    /// The image id printed in the status.
    pub(crate) image_ref: String,
    /// The resources the running container was last given; unknown for one that another process started.
    pub(crate) actual: Option<ResourceRequirements>,
    /// This attempt ends, or has ended, only to be started anew with other resources.
    pub(crate) renewing: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The image that cannot be had, the container's or that of a volume.
    pub(crate) image: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeView {
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condemned {
    pub(crate) message: String,
    /// `terminationGracePeriodSeconds` of the probe, when it has one.
    pub(crate) grace: Option<i64>,
}

/// How far the stop of a running container has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub(crate) id: String,
    pub(crate) since: Timestamp,
    pub(crate) grace: i64,
    pub(crate) hook_done: bool,
    pub(crate) signalled: bool,
    pub(crate) killed: bool,
}

impl ContainerView {
    pub(crate) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|c| matches!(c.state, ContainerState::Running { .. }))
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        match &self.current.as_ref()?.state {
            ContainerState::Exited { code, .. } => Some(*code),
            ContainerState::Unknown => Some(137),
            ContainerState::Created { .. } | ContainerState::Running { .. } => None,
        }
    }

    pub(crate) fn finished_at(&self) -> Option<Timestamp> {
        self.current.as_ref()?.state.finished_at()
    }

    /// Exited, or never started and nothing under way.
    pub(crate) fn is_idle(&self) -> bool {
        !self.launching && !self.is_running()
    }

    /// Made, and then left: the process that made it was killed before it could start it.
    pub(crate) fn was_abandoned(&self) -> bool {
        let created = |c: &ContainerRecord| matches!(c.state, ContainerState::Created { .. });
        !self.launching && self.current.as_ref().is_some_and(created)
    }

    pub(crate) fn is_renewing(&self) -> bool {
        self.renewing.is_some() && self.renewing.as_ref() == self.current.as_ref().map(|c| &c.id)
    }

    pub(crate) fn restart_count(&self) -> u32 {
        self.current.as_ref().map_or(self.restarts, |c| c.attempt.max(self.restarts))
    }
}

impl PodView {
    /// What the pod has to end in, when that was said otherwise than by its spec: the deletion's word, or the eviction's.
    pub(crate) fn grace(&self) -> Option<i64> {
        let doom = self.doomed.as_ref().and_then(|d| d.grace);
        self.terminating.map(|t| t.grace).into_iter().chain(doom).min()
    }

    pub(crate) fn container(&self, name: &str) -> &ContainerView {
        static NONE: std::sync::LazyLock<ContainerView> = std::sync::LazyLock::new(ContainerView::default);
        self.containers.get(name).unwrap_or(&NONE)
    }
}

/// The kinds of container in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
    Ephemeral,
}

pub(crate) fn role_of_init(c: &Container) -> Role {
    if is_sidecar(c.restart_policy.as_deref()) { Role::Sidecar } else { Role::Init }
}

pub(crate) fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

pub(crate) fn ephemeral_containers(spec: &PodSpec) -> &[EphemeralContainer] {
    spec.ephemeral_containers.as_deref().unwrap_or_default()
}

/// The container of that name and its role; an ephemeral one in the shape of a common one.
pub(crate) fn find_container(spec: &PodSpec, name: &str) -> Option<(Role, Container)> {
    let init = init_containers(spec).iter().find(|c| c.name == name).map(|c| (role_of_init(c), c.clone()));
    let main = || spec.containers.iter().find(|c| c.name == name).map(|c| (Role::Main, c.clone()));
    let ephemeral = || {
        ephemeral_containers(spec)
            .iter()
            .find(|c| c.name == name)
            .map(|c| (Role::Ephemeral, ephemeral_as_container(c)))
    };
    init.or_else(main).or_else(ephemeral)
}

fn ephemeral_as_container(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        working_dir: c.working_dir.clone(),
        volume_mounts: c.volume_mounts.clone(),
        volume_devices: c.volume_devices.clone(),
        security_context: c.security_context.clone(),
        resources: c.resources.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        ..Container::default()
    }
}

pub(crate) fn spec_of(pod: &Pod) -> &PodSpec {
    static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}
