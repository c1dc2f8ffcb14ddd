//! Who a container runs as: the pod's security context over the image's `USER`, names looked up in the image.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cri::{ContainerError, Security};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Reads a file of the image without following a link out of it.
pub(super) fn account_file(rootfs: &Path, name: &str) -> String {
    let path = rootfs.join("etc").join(name);
    match (path.canonicalize(), rootfs.canonicalize()) {
        (Ok(path), Ok(rootfs)) if path.starts_with(&rootfs) => {
            std::fs::read_to_string(path).unwrap_or_default()
        }
        _ => String::new(),
    }
}

pub(super) fn resolve(
    security: &Security,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, ContainerError> {
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines()
            .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>())
            .filter(|row| row.len() >= 3)
            .collect()
    };
    let (passwd, group) = (rows(passwd), rows(group));
    let (name, group_name) = image_user.split_once(':').unwrap_or((image_user, ""));
    let row = match security.run_as_user {
        Some(uid) => passwd.iter().find(|row| row[2] == uid.to_string()),
        None => passwd.iter().find(|row| row[0] == name || row[2] == name),
    };
    let uid = match (security.run_as_user, row) {
        (Some(uid), _) => number(&uid.to_string())?,
        (None, Some(row)) => number(&row[2])?,
        (None, None) if name.is_empty() => 0,
        (None, None) => name.parse().map_err(|_| {
            ContainerError::Create(format!("unable to find user {name}: no matching entries in passwd file"))
        })?,
    };
    let primary = row.and_then(|row| row.get(3)).and_then(|gid| gid.parse().ok());
    let gid = match security.run_as_group {
        Some(gid) => number(&gid.to_string())?,
        None if security.run_as_user.is_none() && !group_name.is_empty() => {
            match group.iter().find(|row| row[0] == group_name) {
                Some(row) => number(&row[2])?,
                None => group_name.parse().map_err(|_| {
                    ContainerError::Create(format!(
                        "unable to find group {group_name}: no matching entries in group file"
                    ))
                })?,
            }
        }
        None => primary.unwrap_or(0),
    };
    let mut groups: BTreeSet<u32> = BTreeSet::from([gid]);
    if !security.strict_groups
        && let Some(row) = row
    {
        let member = |entry: &&Vec<String>| {
            entry.get(3).is_some_and(|members| members.split(',').any(|m| m == row[0]))
        };
        groups.extend(group.iter().filter(member).filter_map(|entry| entry[2].parse::<u32>().ok()));
    }
    for extra in &security.supplemental_groups {
        groups.insert(number(&extra.to_string())?);
    }
    if security.run_as_non_root && uid == 0 {
        return Err(ContainerError::Config(
            "container has runAsNonRoot and image will run as root".to_owned(),
        ));
    }
    let home = row.and_then(|row| row.get(5)).filter(|home| !home.is_empty()).cloned();
    let home = home.unwrap_or_else(|| if uid == 0 { "/root".to_owned() } else { "/".to_owned() });
    Ok(User { uid, gid, groups: groups.into_iter().collect(), home })
}

fn number(text: &str) -> Result<u32, ContainerError> {
    text.parse().map_err(|_| ContainerError::Config(format!("{text} is not a user or group id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:44:\nextra:x:55:web,other\n";

    #[test]
    fn users_are_resolved_as_image_and_pod_say() {
        let plain = Security::default();
        let user = |uid: i64| Security { run_as_user: Some(uid), ..Security::default() };
        let cases: [(&str, Security, &str, (u32, u32, &[u32], &str)); 11] = [
            ("no user is root", plain.clone(), "", (0, 0, &[0], "/root")),
            ("a name brings its groups", plain.clone(), "web", (33, 44, &[44, 55], "/srv")),
            ("so does its number", plain.clone(), "33", (33, 44, &[44, 55], "/srv")),
            ("a group by name", plain.clone(), "web:extra", (33, 55, &[55], "/srv")),
            ("a group by number", plain.clone(), "33:7", (33, 7, &[7, 55], "/srv")),
            ("an unknown number has group 0", plain.clone(), "1234", (1234, 0, &[0], "/")),
            ("runAsUser wins", user(33), "root", (33, 44, &[44, 55], "/srv")),
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
            let found = resolve(&security, image_user, PASSWD, GROUP).unwrap();
            assert_eq!(found, User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }, "{what}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        let root = Security { run_as_non_root: true, ..Security::default() };
        let negative = Security { run_as_user: Some(-1), ..Security::default() };
        let cases = [
            (&root, "", "container has runAsNonRoot and image will run as root"),
            (
                &Security::default(),
                "nosuch",
                "unable to find user nosuch: no matching entries in passwd file",
            ),
            (&Security::default(), "web:no", "unable to find group no: no matching entries in group file"),
            (&negative, "", "-1 is not a user or group id"),
        ];
        for (security, image_user, want) in cases {
            assert_eq!(resolve(security, image_user, PASSWD, GROUP).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn account_files_are_not_read_through_links_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(account_file(dir.path(), "passwd"), "");
    }
}
