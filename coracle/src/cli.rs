//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use coracle_api::Cidr;
use coracle_apiserver::access;
use coracle_apiserver::admission::Plugin;
use coracle_apiserver::authn::oidc::{self, Algorithm};
use coracle_kubelet::eviction::thresholds::HARD;

/// Kubernetes you can carry: the real Kubernetes API from one file, pods run by the same program.
#[derive(Debug, Parser)]
#[command(name = "coracle", version = crate::VERSION, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to log: error, warn, info, debug, trace, or a filter such as `coracle_kubelet=debug,info`
    #[arg(long, global = true, env = "CORACLE_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a one-node cluster in the foreground (the default)
    Up(Box<Up>),
    /// Stop the cluster's pods; with --purge remove every trace of it
    Down(Down),
    /// Import, pull, list and remove the node's images
    #[command(subcommand)]
    Image(Image),
    /// Print the administrator's kubeconfig, or that of a further node
    Kubeconfig(Kubeconfig),
    /// Run one component alone against an API server
    #[command(flatten)]
    Component(Component),
}

#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// Where the cluster lives: store, certificates, images, pods
    /// [default: /var/lib/coracle, or ~/.local/share/coracle without root]
    #[arg(long, env = "CORACLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct Up {
    #[command(flatten)]
    pub node: Node,

    /// Serve the control plane alone; run no pods (this is also what happens without root)
    #[arg(long)]
    pub no_node: bool,

    /// Leave these parts out, so that other programs can do their work
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    pub without: Vec<Part>,

    /// Port of the API server
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub port: u16,

    /// Further addresses for the API server's certificate
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub tls_san: Vec<IpAddr>,

    /// Where to write the administrator's kubeconfig [default: DATA_DIR/kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    #[command(flatten)]
    pub access: Access,

    #[command(flatten)]
    pub bounds: Bounds,
}

/// What one user may hold of the API server.
#[derive(Debug, Clone, Args)]
pub struct Bounds {
    /// Watches that one user may have at once
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub max_watches_per_user: usize,

    /// Sessions (log, exec, attach, port-forward, proxy) that one user may have at once
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub max_sessions_per_user: usize,
}

/// Upstream's flags of the API server that choose what it lets in; the defaults are upstream's.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// Serve requests without credentials, as system:anonymous
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub anonymous_auth: bool,

    /// Let the tokens of pods live for a year, for clients that never read them again
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub service_account_extend_token_expiration: bool,

    /// Admission plugins beside those that are always on: AlwaysPullImages, DenyServiceExternalIPs, EventRateLimit
    #[arg(long, value_name = "PLUGIN", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<Plugin>,

    #[command(flatten)]
    pub oidc: Oidc,
}

/// Upstream's flags for users of an OpenID Connect provider.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Users of an OpenID Connect provider")]
pub struct Oidc {
    /// URL (https) of the provider, whose ID tokens are then believed
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,

    /// Whom the tokens must be for
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,

    /// Authorities that the provider is believed by [default: the machine's]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,

    /// Claim that is the user's name
    #[arg(long, default_value = "sub", value_name = "CLAIM")]
    pub oidc_username_claim: String,

    /// What goes before users' names; `-` for nothing [default: the URL and `#`, unless the claim is `email`]
    #[arg(long, value_name = "TEXT", requires = "oidc_issuer_url")]
    pub oidc_username_prefix: Option<String>,

    /// Claim that holds the user's groups, a string or several [default: none does]
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_groups_claim: Option<String>,

    /// What goes before groups' names
    #[arg(long, value_name = "TEXT", requires = "oidc_issuer_url")]
    pub oidc_groups_prefix: Option<String>,

    /// Algorithms that tokens may be signed with: RS256, RS384, RS512, ES256, ES384, PS256, PS384, PS512
    #[arg(long, default_value = "RS256", value_name = "NAME", value_delimiter = ',')]
    pub oidc_signing_algs: Vec<Algorithm>,

    /// A claim that tokens must have, with its value; may be given more than once
    #[arg(long, value_name = "CLAIM=VALUE", value_parser = pair, requires = "oidc_issuer_url")]
    pub oidc_required_claim: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected CLAIM=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Debug, Clone, Args)]
pub struct Kubeconfig {
    #[command(flatten)]
    pub data: DataDir,

    /// Print what `coracle kubelet` needs on a further machine, which becomes the node of this name
    #[arg(long, value_name = "NAME", requires = "node_ip")]
    pub node: Option<String>,

    /// Address of that machine
    #[arg(long, value_name = "IP", requires = "node")]
    pub node_ip: Option<IpAddr>,

    /// Write it to this file, which only its owner can read, instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Where that machine reaches the API server [default: https://, this machine's address and the port of `up`]
    #[arg(long, value_name = "URL", requires = "node")]
    pub server: Option<String>,
}

/// What can be left out of `up` because upstream has a program for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Scheduler,
    Controllers,
}

/// This machine as a node, and the ranges of the cluster it is in.
#[derive(Debug, Clone, Args)]
pub struct Node {
    #[command(flatten)]
    pub data: DataDir,

    /// Address the API server and the node listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,

    /// Port of the node's own HTTPS endpoints (logs, exec, metrics)
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub kubelet_port: u16,

    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// Address other machines and pods reach this node at [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,

    /// Range of ClusterIPs
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: String,

    /// Range of pod addresses of the whole cluster; each node gets a /24 of it
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: String,

    /// ClusterIP of the cluster's DNS [default: the tenth address of the service range]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,

    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,

    /// Registry mirrors, as YAML: `mirrors: {docker.io: [https://mirror.example.com]}`
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,

    /// Reach this registry on loopback without TLS (host:port; may be given more than once)
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_loopback_registry: Vec<String>,

    /// How many processes and threads one pod may have (-1: as many as the machine)
    #[arg(long, default_value_t = 4096, value_name = "N", allow_negative_numbers = true)]
    pub pod_max_pids: i64,

    /// Sysctls beyond the safe ones that pods may set: names, or beginnings that end in `*`
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,

    #[command(flatten)]
    pub image_policy: ImagePolicy,

    #[command(flatten)]
    pub eviction: Eviction,

    /// How long the machine's end is put off (by logind) so that pods can end before it; 0 for not at all
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub shutdown_grace_period: Duration,

    /// The last part of it, for critical pods
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub shutdown_grace_period_critical_pods: Duration,

    /// Time after which a streaming connection (exec, attach, port-forward) that is idle is closed; 0 for never
    #[arg(long, default_value = "4h0m0s", value_name = "DURATION", value_parser = duration)]
    pub streaming_connection_idle_timeout: Duration,
}

/// What becomes of images that are on this machine; the values are upstream's.
#[derive(Debug, Clone, Args)]
pub struct ImagePolicy {
    /// Which images that are here pods must have the registry's password for
    #[arg(long, value_enum, default_value_t, value_name = "POLICY")]
    pub image_pull_credentials_verification: Verification,

    /// Repositories that every pod may use from this machine, with NeverVerifyAllowlistedImages
    #[arg(long, value_name = "REPOSITORY", value_delimiter = ',')]
    pub preloaded_images_verification_allowlist: Vec<String>,

    /// Percent of the disk in use from which unused images are removed
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,

    /// Percent of the disk in use down to which unused images are removed
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,

    /// Seconds after which an unused image is removed whatever room there is [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub image_maximum_gc_age: Option<u64>,
}

/// Upstream's `imagePullCredentialsVerificationPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Verification {
    /// None
    NeverVerify,
    /// Those that a pod has brought here
    #[default]
    NeverVerifyPreloadedImages,
    /// Those of other repositories than the listed ones
    NeverVerifyAllowlistedImages,
    /// All
    AlwaysVerify,
}

/// When the node ends pods to keep itself alive.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Eviction")]
pub struct Eviction {
    /// Thresholds that evict at once; replaces the default as a whole
    #[arg(long, default_value = HARD, value_name = "SIGNAL<AMOUNT,...>")]
    pub eviction_hard: String,

    /// Thresholds that evict when met for their grace period
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SIGNAL<AMOUNT,...>")]
    pub eviction_soft: String,

    /// Grace periods of the soft thresholds
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SIGNAL=DURATION,...")]
    pub eviction_soft_grace_period: String,

    /// How much more than its threshold a signal has to regain
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SIGNAL=AMOUNT,...")]
    pub eviction_minimum_reclaim: String,

    /// How long a pressure condition of the node stays after it was last observed
    #[arg(long, default_value = "5m0s", value_name = "DURATION", value_parser = duration)]
    pub eviction_pressure_transition_period: Duration,

    /// Longest grace period of a pod that a soft threshold evicts
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: u32,
}

fn duration(text: &str) -> Result<Duration, String> {
    coracle_kubelet::eviction::thresholds::duration(text)
        .ok_or_else(|| "expected a duration such as 30s or 1h30m".to_owned())
}

#[derive(Debug, Clone, Args)]
pub struct Down {
    #[command(flatten)]
    pub data: DataDir,

    /// Remove everything: containers, mounts, namespaces, links, the nft table, cgroups and the data directory
    #[arg(long)]
    pub purge: bool,
}

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Import images from a docker-archive or OCI-layout tar file (`-` for standard input)
    Import {
        #[command(flatten)]
        data: DataDir,
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Pull images from their registries
    Pull {
        #[command(flatten)]
        data: DataDir,
        /// Registry mirrors, as for `up`
        #[arg(long, value_name = "FILE")]
        registries: Option<PathBuf>,
        /// Reach this registry on loopback without TLS
        #[arg(long, value_name = "HOST:PORT")]
        insecure_loopback_registry: Vec<String>,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls(DataDir),
    /// Remove images
    #[command(visible_aliases = ["remove", "rmi"])]
    Rm {
        #[command(flatten)]
        data: DataDir,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Component {
    /// Run the API server alone
    Apiserver(Box<Up>),
    /// Run the scheduler alone
    Scheduler(Client),
    /// Run the controllers alone
    Controllers(Controllers),
    /// Run this machine as a node alone
    Kubelet(Box<Kubelet>),
}

#[derive(Debug, Clone, Args)]
pub struct Controllers {
    #[command(flatten)]
    pub client: Client,

    /// CA that pods find beside their tokens [default: none is published]
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,

    /// Certificate of the authority that signs certificate requests [default: none are signed]
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,

    /// Key of the authority that signs certificate requests
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,

    /// Key that signs the tokens of ServiceAccounts' Secrets [default: none are filled]
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,

    /// Range of pod addresses of the whole cluster; each node gets a /24 of it
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: Cidr,

    /// Range of ClusterIPs: no node's range meets it
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: Cidr,
}

#[derive(Debug, Clone, Args)]
pub struct Kubelet {
    #[command(flatten)]
    pub client: Client,

    #[command(flatten)]
    pub node: Node,

    /// CA of the certificates by which the API server may use the node's endpoints (logs, exec)
    /// [default: the CA in the kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

/// How a component that runs alone reaches the API server.
#[derive(Debug, Clone, Args)]
pub struct Client {
    /// kubeconfig of the API server to work for
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

impl Access {
    /// As the API server takes it. Reads the files that are named.
    pub fn options(&self) -> anyhow::Result<access::Options> {
        Ok(access::Options {
            anonymous: self.anonymous_auth,
            extend_tokens: self.service_account_extend_token_expiration,
            plugins: self.enable_admission_plugins.clone(),
            oidc: self.oidc.options()?,
        })
    }
}

impl Oidc {
    fn options(&self) -> anyhow::Result<Option<oidc::Options>> {
        let (Some(issuer), Some(client_id)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            return Ok(None);
        };
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).with_context(|| format!("--oidc-ca-file {}", file.display()))
        };
        Ok(Some(oidc::Options {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            ca: self.oidc_ca_file.as_ref().map(read).transpose()?,
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone().unwrap_or_default(),
            groups_prefix: self.oidc_groups_prefix.clone().unwrap_or_default(),
            required_claims: self.oidc_required_claim.iter().cloned().collect(),
            algorithms: self.oidc_signing_algs.clone(),
        }))
    }
}

impl Default for Up {
    /// What `coracle` without arguments means.
    fn default() -> Self {
        match Cli::parse_from(["coracle", "up"]).command {
            Some(Command::Up(up)) => *up,
            _ => unreachable!("`up` was just named"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert_eq!(Up::default().port, 6443);
        assert_eq!(Up::default().access.options().unwrap(), access::Options::default());
        for words in
            [["image", "ls", ""], ["image", "list", ""], ["image", "remove", "x"], ["image", "rmi", "x"]]
        {
            let given = words.into_iter().filter(|word| !word.is_empty());
            assert!(Cli::try_parse_from(std::iter::once("coracle").chain(given)).is_ok(), "{words:?}");
        }
        let (bounds, config) = (Up::default().bounds, coracle_apiserver::Config::default());
        assert_eq!(bounds.max_watches_per_user, config.max_watches_per_user);
        assert_eq!(bounds.max_sessions_per_user, config.max_sessions_per_user);
    }

    #[test]
    fn flags_of_a_provider_are_upstreams() {
        let parse = |flags: &[&str]| {
            let all = ["coracle", "up"].iter().chain(flags);
            Cli::try_parse_from(all).map(|cli| match cli.command {
                Some(Command::Up(up)) => up.access.options().unwrap().oidc,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(parse(&[]).unwrap(), None);
        let needed = ["--oidc-issuer-url=https://i", "--oidc-client-id=c"];
        let all = parse(
            &[&needed[..], &["--oidc-required-claim=a=b=c", "--oidc-signing-algs=ES256,PS512"]].concat(),
        );
        let all = all.unwrap().unwrap();
        assert_eq!((&*all.issuer, &*all.client_id, &*all.username_claim), ("https://i", "c", "sub"));
        assert_eq!((all.username_prefix, all.groups_claim), (None, String::new()));
        assert_eq!(all.required_claims.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(all.algorithms, [Algorithm::ES256, Algorithm::PS512]);
        for bad in [&needed[..1], &needed[1..], &["--oidc-groups-claim=g"], &["--oidc-signing-algs=HS256"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn flags_of_the_api_server_are_upstreams() {
        let parse = |flag: &str| {
            Cli::try_parse_from(["coracle", "up", flag]).map(|cli| match cli.command {
                Some(Command::Up(up)) => up.access.options().unwrap(),
                other => panic!("{other:?}"),
            })
        };
        assert!(!parse("--anonymous-auth=false").unwrap().anonymous);
        assert!(!parse("--service-account-extend-token-expiration=false").unwrap().extend_tokens);
        let plugins = parse("--enable-admission-plugins=NodeRestriction,EventRateLimit").unwrap().plugins;
        assert_eq!(plugins, [Plugin::Present, Plugin::EventRateLimit]);
        assert!(parse("--enable-admission-plugins=AlwaysAdmit").is_err());
    }
}
