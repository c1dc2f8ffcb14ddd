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
        (Ok(path), Ok(rootfs)) if path.starts_with(&rootfs) => std::fs::read_to_string(path).unwrap_or_default(),
        _ => String::new(),
    }
}

pub(super) fn resolve(security: &Security, image_user: &str, passwd: &str, group: &str) -> Result<User, ContainerError> {
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>()).filter(|row| row.len() >= 3).collect()
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
        (None, None) => name
            .parse()
            .map_err(|_| ContainerError::Create(format!("unable to find user {name}: no matching entries in passwd file")))?,
    };
    let primary = row.and_then(|row| row.get(3)).and_then(|gid| gid.parse().ok());
    let gid = match security.run_as_group {
        Some(gid) => number(&gid.to_string())?,
        None if security.run_as_user.is_none() && !group_name.is_empty() => {
            match group.iter().find(|row| row[0] == group_name) {
                Some(row) => number(&row[2])?,
                None => group_name.parse().map_err(|_| {
                    ContainerError::Create(format!("unable to find group {group_name}: no matching entries in group file"))
                })?,
            }
        }
        None => primary.unwrap_or(0),
    };
    let mut groups: BTreeSet<u32> = BTreeSet::from([gid]);
    if !security.strict_groups
        && let Some(row) = row
    {
        let member = |entry: &&Vec<String>| entry.get(3).is_some_and(|members| members.split(',').any(|m| m == row[0]));
        groups.extend(group.iter().filter(member).filter_map(|entry| entry[2].parse::<u32>().ok()));
    }
    for extra in &security.supplemental_groups {
        groups.insert(number(&extra.to_string())?);
    }
    if security.run_as_non_root && uid == 0 {
        return Err(ContainerError::Config("container has runAsNonRoot and image will run as root".to_owned()));
    }
    let home = row.and_then(|row| row.get(5)).filter(|home| !home.is_empty()).cloned();
    let home = home.unwrap_or_else(|| if uid == 0 { "/root".to_owned() } else { "/".to_owned() });
    Ok(User { uid, gid, groups: groups.into_iter().collect(), home })
}

fn number(text: &str) -> Result<u32, ContainerError> {
    text.parse().map_err(|_| ContainerError::Config(format!("{text} is not a user or group id")))
}
