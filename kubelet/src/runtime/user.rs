//! Who a container runs as: the pod's security context over the image's `USER`, names looked up in the image.
//!
//! An id is a number from 0 to 2^31-1 wherever it comes from. A larger one would be cut by what stands below, and end as
//! another user's, root's above all (CVE-2024-40635).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use crate::beneath::{Dir, Links};
use crate::cri::{ContainerError, ContainerSpec};

/// Real ones have some kilobytes.
const MAX_ACCOUNTS: u64 = 4 << 20;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Reads `/etc/<name>` as a process in the image would find it; one that is not there is empty.
pub(super) fn account_file(rootfs: &Path, name: &str) -> Result<String, ContainerError> {
    let read = || Dir::open(rootfs)?.read(Path::new("etc").join(name), Links::AsRoot, MAX_ACCOUNTS);
    match read() {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                || error.raw_os_error() == Some(libc::ELOOP) =>
        {
            Ok(String::new())
        }
        Err(error) => Err(ContainerError::Create(format!("cannot read /etc/{name} of the image: {error}"))),
    }
}

/// A number or a name, as container runtimes read the image's `USER`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted<'a> {
    Id(i64),
    Name(&'a str),
}

impl Wanted<'_> {
    fn parse(text: &str) -> Wanted<'_> {
        text.parse().map_or(Wanted::Name(text), Wanted::Id)
    }
}

/// A line of `/etc/passwd` or `/etc/group`.
struct Row<'a>(&'a str);

impl<'a> Row<'a> {
    fn all(text: &'a str) -> impl Iterator<Item = Row<'a>> {
        text.lines().map(Row).filter(|row| row.field(2).is_some())
    }

    fn field(&self, index: usize) -> Option<&'a str> {
        self.0.split(':').nth(index)
    }

    fn is(&self, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::Id(id) => self.field(2).and_then(|own| own.parse().ok()) == Some(id),
            Wanted::Name(name) => self.field(0) == Some(name),
        }
    }
}

pub(super) fn resolve(
    spec: &ContainerSpec,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, ContainerError> {
    let security = &spec.security;
    let (name, group_name) = image_user.split_once(':').unwrap_or((image_user, ""));
    let image = (!name.is_empty()).then(|| Wanted::parse(name));
    verify_not_root(spec, image)?;
    let wanted = security.run_as_user.map(Wanted::Id).or(image);
    let row = wanted.and_then(|wanted| Row::all(passwd).find(|row| row.is(wanted)));
    let uid = match (wanted, &row) {
        (None, _) => 0,
        (Some(Wanted::Id(id)), _) if security.run_as_user.is_some() => id_of_pod(id)?,
        (Some(Wanted::Id(id)), _) => in_range(id).ok_or_else(|| unknown("user", name, "passwd"))?,
        (Some(Wanted::Name(_)), Some(row)) => id_of(row, 2, name)?,
        (Some(Wanted::Name(_)), None) => return Err(unknown("user", name, "passwd")),
    };
    let gid = match security.run_as_group {
        Some(gid) => id_of_pod(gid)?,
        None if security.run_as_user.is_none() && !group_name.is_empty() => {
            let wanted = Wanted::parse(group_name);
            match (wanted, Row::all(group).find(|row| row.is(wanted))) {
                (Wanted::Id(id), _) => in_range(id).ok_or_else(|| unknown("group", group_name, "group"))?,
                (Wanted::Name(_), Some(row)) => id_of(&row, 2, group_name)?,
                (Wanted::Name(_), None) => return Err(unknown("group", group_name, "group")),
            }
        }
        None => match &row {
            Some(row) if row.field(3).is_some_and(|gid| !gid.is_empty()) => id_of(row, 3, name)?,
            _ => 0,
        },
    };
    let mut groups: BTreeSet<u32> = BTreeSet::from([gid]);
    if !security.strict_groups
        && let Some(user) = row.as_ref().and_then(|row| row.field(0))
    {
        let member = |entry: &Row<'_>| {
            entry.field(3).is_some_and(|members| members.split(',').any(|member| member == user))
        };
        let number = |entry: Row<'_>| in_range(entry.field(2)?.parse().ok()?);
        groups.extend(Row::all(group).filter(member).filter_map(number));
    }
    for extra in &security.supplemental_groups {
        groups.insert(id_of_pod(*extra)?);
    }
    // However the user was found: what runs is what counts.
    if security.run_as_non_root && uid == 0 {
        return Err(refused(spec, "container has runAsNonRoot and image will run as root"));
    }
    let home = row.and_then(|row| row.field(5)).filter(|home| !home.is_empty()).map(str::to_owned);
    let home = home.unwrap_or_else(|| if uid == 0 { "/root".to_owned() } else { "/".to_owned() });
    Ok(User { uid, gid, groups: groups.into_iter().collect(), home })
}

/// Upstream's check before a container is made: with `runAsNonRoot` a user must be known by its number.
fn verify_not_root(spec: &ContainerSpec, image: Option<Wanted<'_>>) -> Result<(), ContainerError> {
    if !spec.security.run_as_non_root {
        return Ok(());
    }
    let why = match (spec.security.run_as_user, image) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, None | Some(Wanted::Id(0))) => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, Some(Wanted::Name(name))) => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        ),
        (None, Some(Wanted::Id(id))) if in_range(id).is_none() => format!(
            "container has runAsNonRoot and image has an invalid user id ({id}). (Must be 1-({max})): must be between 0 \
             and {max}, inclusive",
            max = i32::MAX
        ),
        (None, Some(Wanted::Id(_))) => return Ok(()),
    };
    Err(refused(spec, &why))
}

fn refused(spec: &ContainerSpec, why: &str) -> ContainerError {
    let pod = format!("{}_{}({})", spec.pod_name, spec.pod_namespace, spec.pod_uid);
    ContainerError::Config(format!("{why} (pod: {pod:?}, container: {})", spec.name))
}

fn unknown(what: &str, name: &str, file: &str) -> ContainerError {
    let name: String = name.chars().take(64).collect();
    ContainerError::Create(format!("unable to find {what} {name}: no matching entries in {file} file"))
}

fn in_range(id: i64) -> Option<u32> {
    i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok())
}

/// The id that a row gives.
fn id_of(row: &Row<'_>, field: usize, name: &str) -> Result<u32, ContainerError> {
    let text = row.field(field).unwrap_or_default();
    text.parse().ok().and_then(in_range).ok_or_else(|| {
        ContainerError::Create(format!("{name} of the image has {text:.20}, which is not a user or group id"))
    })
}

fn id_of_pod(id: i64) -> Result<u32, ContainerError> {
    in_range(id).ok_or_else(|| ContainerError::Config(format!("{id} is not a user or group id")))
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod hostile;

#[cfg(test)]
mod tests {
    use super::hostile::spec;
    use super::*;
    use crate::cri::Security;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\nbroken\n\
                          toor:x:00:0::/:\nwrapped:x:4294967295:44::/:\nminus:x:-1:44::/:\nword:x:no:44::/:\n\
                          biggroup:x:70:4294967295::/:\n1000:x:0:0::/:\n5000000000:x:0:0::/:\nfew:x:71\n";
    const GROUP: &str =
        "root:x:0:\nweb:x:44:\nextra:x:55:web,other\nwrapped:x:4294967295:web\nword:x:no:web\n";

    #[test]
    fn users_are_resolved_as_image_and_pod_say() {
        let plain = Security::default();
        let user = |uid: i64| Security { run_as_user: Some(uid), ..Security::default() };
        let cases: [(&str, Security, &str, (u32, u32, &[u32], &str)); 17] = [
            ("no user is root", plain.clone(), "", (0, 0, &[0], "/root")),
            ("a name brings its groups", plain.clone(), "web", (33, 44, &[44, 55], "/srv")),
            ("so does its number", plain.clone(), "33", (33, 44, &[44, 55], "/srv")),
            ("a group by name", plain.clone(), "web:extra", (33, 55, &[55], "/srv")),
            ("a group by number", plain.clone(), "33:7", (33, 7, &[7, 55], "/srv")),
            ("an unknown number has group 0", plain.clone(), "1234", (1234, 0, &[0], "/")),
            ("a number is never a name", plain.clone(), "1000", (1000, 0, &[0], "/")),
            ("zeros before a number", plain.clone(), "033", (33, 44, &[44, 55], "/srv")),
            ("the greatest id", plain.clone(), "2147483647", (2_147_483_647, 0, &[0], "/")),
            ("a row with few fields", plain.clone(), "few", (71, 0, &[0], "/")),
            ("an empty group is none", plain.clone(), "web:", (33, 44, &[44, 55], "/srv")),
            ("runAsUser wins", user(33), "root", (33, 44, &[44, 55], "/srv")),
            ("also over what cannot be", user(33), "4294967295:4294967295", (33, 44, &[44, 55], "/srv")),
            ("runAsUser without a row", user(1000), "web:web", (1000, 0, &[0], "/")),
            (
                "runAsGroup wins",
                Security { run_as_group: Some(9), ..user(33) },
                "",
                (33, 9, &[9, 55], "/srv"),
            ),
            (
                "fsGroup and supplemental groups are added",
                Security { supplemental_groups: vec![70, 55], ..user(33) },
                "",
                (33, 44, &[44, 55, 70], "/srv"),
            ),
            (
                "supplementalGroupsPolicy Strict ignores /etc/group",
                Security { strict_groups: true, supplemental_groups: vec![70], ..user(33) },
                "",
                (33, 44, &[44, 70], "/srv"),
            ),
        ];
        for (what, security, image_user, (uid, gid, groups, home)) in cases {
            let found = resolve(&spec(security), image_user, PASSWD, GROUP).unwrap();
            assert_eq!(found, User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }, "{what}");
        }
    }

    #[test]
    fn nobody_runs_as_root_who_must_not() {
        const OF: &str = " (pod: \"p_ns(u)\", container: c)";
        let root = "container has runAsNonRoot and image will run as root";
        let name = |name: &str| {
            format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )
        };
        let invalid = |id: &str| {
            format!(
                "container has runAsNonRoot and image has an invalid user id ({id}). (Must be 1-(2147483647)): must be \
                 between 0 and 2147483647, inclusive"
            )
        };
        let cases = [
            ("", root.to_owned()),
            ("0", root.to_owned()),
            ("00", root.to_owned()),
            ("+0", root.to_owned()),
            ("-0", root.to_owned()),
            ("0:1000", root.to_owned()),
            (":1000", root.to_owned()),
            ("4294967295", invalid("4294967295")),
            ("4294967296", invalid("4294967296")),
            ("2147483648", invalid("2147483648")),
            ("-1", invalid("-1")),
            ("5000000000", invalid("5000000000")),
            ("99999999999999999999", name("99999999999999999999")),
            ("0x0", name("0x0")),
            ("0x3e8", name("0x3e8")),
            (" 0", name(" 0")),
            ("root", name("root")),
            ("toor", name("toor")),
            ("web", name("web")),
        ];
        let must_not = Security { run_as_non_root: true, ..Security::default() };
        for (user, want) in cases {
            let error = resolve(&spec(must_not.clone()), user, PASSWD, GROUP).unwrap_err();
            assert!(matches!(error, ContainerError::Config(_)), "{user:?}");
            assert_eq!(error.to_string(), format!("{want}{OF}"), "{user:?}");
        }
        let chosen = Security { run_as_user: Some(0), ..must_not.clone() };
        let error = resolve(&spec(chosen), "1000", PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(error, format!("container's runAsUser breaks non-root policy{OF}"));
        assert_eq!(resolve(&spec(must_not), "1000", PASSWD, GROUP).unwrap().uid, 1000);
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        let pod = |change: fn(&mut Security)| {
            let mut security = Security::default();
            change(&mut security);
            security
        };
        let plain = Security::default();
        let no_user = |name: &str| format!("unable to find user {name}: no matching entries in passwd file");
        let no_group = |name: &str| format!("unable to find group {name}: no matching entries in group file");
        let no_id =
            |of: &str, id: &str| format!("{of} of the image has {id}, which is not a user or group id");
        let cases = [
            (plain.clone(), "nosuch", no_user("nosuch")),
            (plain.clone(), "4294967295", no_user("4294967295")),
            (plain.clone(), "4294967296", no_user("4294967296")),
            (plain.clone(), "5000000000", no_user("5000000000")),
            (plain.clone(), "-1", no_user("-1")),
            (plain.clone(), "0x0", no_user("0x0")),
            (plain.clone(), "wrapped", no_id("wrapped", "4294967295")),
            (plain.clone(), "minus", no_id("minus", "-1")),
            (plain.clone(), "word", no_id("word", "no")),
            (plain.clone(), "biggroup", no_id("biggroup", "4294967295")),
            (plain.clone(), "web:no", no_group("no")),
            (plain.clone(), "web:4294967295", no_group("4294967295")),
            (plain.clone(), "web:-1", no_group("-1")),
            (plain, "web:wrapped", no_id("wrapped", "4294967295")),
            (pod(|s| s.run_as_user = Some(-1)), "", "-1 is not a user or group id".to_owned()),
            (pod(|s| s.run_as_user = Some(1 << 31)), "", "2147483648 is not a user or group id".to_owned()),
            (pod(|s| s.run_as_group = Some(1 << 32)), "", "4294967296 is not a user or group id".to_owned()),
            (
                pod(|s| s.supplemental_groups = vec![4_294_967_295]),
                "",
                "4294967295 is not a user or group id".to_owned(),
            ),
        ];
        for (security, image_user, want) in cases {
            let error = resolve(&spec(security), image_user, PASSWD, GROUP).unwrap_err().to_string();
            assert_eq!(error, want, "{image_user:?}");
        }
    }

    #[test]
    fn account_files_are_regular_small_and_the_images_own() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        let passwd = etc.join("passwd");
        assert_eq!(account_file(dir.path(), "passwd").unwrap(), "");
        std::fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &passwd).unwrap();
        assert_eq!(account_file(dir.path(), "passwd").unwrap(), "", "it leads to itself");
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("../../../../real", &passwd).unwrap();
        std::fs::write(dir.path().join("real"), "here").unwrap();
        assert_eq!(account_file(dir.path(), "passwd").unwrap(), "here", "a root has nothing above it");
        std::fs::remove_file(&passwd).unwrap();
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(account_file(dir.path(), "passwd").is_err());
        std::fs::remove_file(&passwd).unwrap();
        // Terabytes, and nothing on the disk.
        std::fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
        assert!(account_file(dir.path(), "passwd").is_err());
    }
}
