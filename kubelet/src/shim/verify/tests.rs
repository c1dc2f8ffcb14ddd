//! A process as asked has no difference; each change of what the kernel says is found.

use super::*;

fn asked() -> Asked {
    let mount = |path: &str, flags: &[&str]| AskedMount {
        path: path.into(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        all_readonly: path == "/run/secrets",
    };
    Asked {
        ids: [1000, 1001],
        groups: vec![5, 2000],
        bounding: 0xff,
        filtered: true,
        no_new_privileges: true,
        label: Some("coracle-default".to_owned()),
        oom_score: Some(999),
        readonly_root: true,
        mounts: vec![
            mount("/proc", &["nosuid", "noexec", "nodev"]),
            mount("/sys", &["nosuid", "ro"]),
            mount("/run/secrets", &["ro"]),
        ],
        masked: vec!["/proc/kcore".into(), "/proc/acpi".into(), "/proc/nosuch".into()],
        readonly: vec!["/proc/sys".into()],
        ..Asked::default()
    }
}

const MOUNTS: &str = "\
1 0 0:1 / / ro,relatime - overlay overlay rw
2 1 0:2 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
3 1 0:3 / /sys ro,nosuid,nodev,noexec - sysfs sysfs rw
4 1 8:1 /var/lib/x /var/run/secrets ro,relatime - ext4 /dev/vda rw
5 2 0:5 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw
6 2 0:6 / /proc/acpi ro - tmpfs tmpfs ro
7 2 0:2 /sys /proc/sys ro,nosuid - proc proc rw";

const STATUS: &str = "Name:\tsh
Uid:\t1000\t1000\t1000\t1000
Gid:\t1001\t1001\t1001\t1001
Groups:\t5 2000
NoNewPrivs:\t1
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t00000000000000ff
CapAmb:\t0000000000000000
Seccomp:\t2
Seccomp_filters:\t1";

fn seen() -> Seen {
    let map = ["0 0 4294967295".to_owned(), "0 0 4294967295".to_owned()];
    let at = [
        ("/proc", 2),
        ("/sys", 3),
        // Through a link of the image.
        ("/run/secrets", 4),
        ("/proc/kcore", 5),
        ("/proc/acpi", 6),
        ("/proc/sys", 7),
    ];
    Seen {
        status: STATUS.to_owned(),
        label: "coracle-default (enforce)".to_owned(),
        oom_score: "999".to_owned(),
        id_maps: map.clone(),
        own_id_maps: map,
        mounts: MOUNTS.lines().filter_map(SeenMount::parse).collect(),
        at: at.into_iter().map(|(path, id)| (path.into(), id)).collect(),
        own_filters: 0,
    }
}

#[test]
fn a_process_as_asked_runs() {
    assert_eq!(differences(&asked(), &seen()), Vec::<String>::new());
}

#[test]
fn every_difference_is_found() {
    let status = |from: &'static str, to: &'static str| {
        move |seen: &mut Seen| {
            assert!(seen.status.contains(from), "{from}");
            seen.status = seen.status.replace(from, to);
        }
    };
    let line = |from: &'static str, to: &'static str| {
        move |seen: &mut Seen| {
            assert!(MOUNTS.contains(from), "{from}");
            seen.mounts = MOUNTS.replace(from, to).lines().filter_map(SeenMount::parse).collect();
        }
    };
    let cases: Vec<(&str, Box<dyn Fn(&mut Seen)>)> = vec![
        ("Uid", Box::new(status("Uid:\t1000", "Uid:\t0"))),
        ("Uid", Box::new(status("1000\t1000\t1000\t1000", "1000\t0\t0\t0"))),
        ("Gid", Box::new(status("Gid:\t1001", "Gid:\t0"))),
        ("Groups", Box::new(status("Groups:\t5 2000", "Groups:\t0 5 2000"))),
        ("CapBnd", Box::new(status("CapBnd:\t00000000000000ff", "CapBnd:\t00000000000001ff"))),
        ("CapInh", Box::new(status("CapInh:\t0000000000000000", "CapInh:\t0000000000000001"))),
        ("CapAmb", Box::new(status("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001"))),
        ("CapPrm", Box::new(status("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000001"))),
        ("CapEff", Box::new(status("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"))),
        ("filter", Box::new(status("Seccomp:\t2", "Seccomp:\t0"))),
        ("filter", Box::new(|seen| seen.own_filters = 1)),
        ("NoNewPrivs", Box::new(status("NoNewPrivs:\t1", "NoNewPrivs:\t0"))),
        ("AppArmor", Box::new(|seen| seen.label = "unconfined".to_owned())),
        ("AppArmor", Box::new(|seen| seen.label = "coracle-default (complain)".to_owned())),
        ("oom_score_adj", Box::new(|seen| seen.oom_score = "-999".to_owned())),
        ("uid_map", Box::new(|seen| seen.id_maps[0] = "0 100000 65536".to_owned())),
        ("gid_map", Box::new(|seen| seen.own_id_maps[1] = "0 100000 65536".to_owned())),
        ("root file system", Box::new(line("/ / ro", "/ / rw"))),
        ("/sys is mounted without ro", Box::new(line("/sys ro", "/sys rw"))),
        ("/proc is mounted without noexec", Box::new(line("rw,nosuid,nodev,noexec", "rw,nosuid,nodev"))),
        ("/run/secrets is mounted without ro", Box::new(line("ro,relatime - ext4", "rw - ext4"))),
        ("/run/secrets is not mounted", Box::new(|seen| _ = seen.at.insert("/run/secrets".into(), 1))),
        ("/proc/kcore is not masked", Box::new(|seen| _ = seen.at.insert("/proc/kcore".into(), 2))),
        ("/proc/acpi is not masked", Box::new(line("/proc/acpi ro", "/proc/acpi rw"))),
        ("/proc/sys is not read-only", Box::new(line("/proc/sys ro", "/proc/sys rw"))),
        (
            "/var/run/secrets/deep is not read-only",
            Box::new(line("5 2 0:5", "9 4 8:1 / /var/run/secrets/deep rw - ext4 x rw\n5 2 0:5")),
        ),
        ("/host is mounted unasked", Box::new(line("4 1 8:1", "9 1 8:1 / /host rw - ext4 x rw\n4 1 8:1"))),
    ];
    for (want, change) in cases {
        let mut seen = seen();
        change(&mut seen);
        let found = differences(&asked(), &seen);
        assert!(found.iter().any(|words| words.contains(want)), "{want}: {found:?}");
    }
}

#[test]
fn root_has_what_is_not_out_of_bounds_and_files_give_no_more() {
    let with = |text: &str, set: &str| {
        let status = text.replace("CapPrm:\t0000000000000000", &format!("CapPrm:\t{set}"));
        Seen { status: status.replace("CapEff:\t0000000000000000", &format!("CapEff:\t{set}")), ..seen() }
    };
    let root_text = STATUS.replace("1000\t1000\t1000\t1000", "0\t0\t0\t0");
    let root = Asked { ids: [0, 1001], ..asked() };
    let free = Asked { no_new_privileges: false, ..asked() };
    for (asked, text, set, right, why) in [
        (&root, root_text.as_str(), "00000000000000ff", true, "root"),
        (&root, &root_text, "0000000000000000", false, "root without"),
        (&root, &root_text, "00000000000001ff", false, "root with more"),
        (&free, STATUS, "0000000000000081", true, "a file's capabilities"),
        (&free, STATUS, "0000000000000100", false, "out of bounds"),
        (&asked(), STATUS, "0000000000000080", false, "a file's, with no_new_privs"),
    ] {
        assert_eq!(differences(asked, &with(text, set)).is_empty(), right, "{why}");
    }
}

#[test]
fn ids_are_seen_through_the_map_of_a_user_namespace() {
    let mapped = Asked {
        id_maps: [vec![[0, 100_000, 65_536]], vec![[0, 100_000, 65_536]]],
        ids: [1000, 1001],
        ..asked()
    };
    let map = "         0     100000      65536\n".to_owned();
    let status = STATUS
        .replace("1000\t1000\t1000\t1000", "101000\t101000\t101000\t101000")
        .replace("1001\t1001\t1001\t1001", "101001\t101001\t101001\t101001")
        .replace("5 2000", "100005 102000");
    let inside = Seen { status, id_maps: [map.clone(), map], ..seen() };
    assert_eq!(differences(&mapped, &inside), Vec::<String>::new());
    let host = differences(&mapped, &seen());
    assert!(host.iter().any(|words| words.contains("uid_map")), "{host:?}");
}
