//! Attackers who serve images.

mod layers;
mod private;
mod registry;
mod spoiled;
mod unpacked;

use anyhow::Result;

use super::book::{Attack, By, How};
use super::pods::{self, BASELINE, Ends, Pod};
use super::scene::Scene;
use layers::Image;
pub(super) use registry::{HostileRegistry, Shelf};

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Registry,
    does: "",
    must: "not run, for a reason that is told; nothing is kept of it",
    quick: false,
    how: How::Asks(&[]),
};

const PULLED: Pod = Pod { spec: "{}", script: "", ends: Ends::Never, ..BASELINE };

/// Puts an image on the shelf, and starts a pod of it.
async fn pull(scene: &Scene<'_>, name: &str, image: Result<Image>, pod: &Pod) -> Result<String> {
    scene.arena.shelf.put(name, image?.repository());
    pods::play(scene, pod).await
}

macro_rules! image {
    ($name:literal) => {
        concat!(r#"{"image":"127.0.0.1:5001/"#, $name, r#":1"}"#)
    };
}
use image;

pub(super) fn attacks() -> Vec<Attack> {
    [spoiled::ATTACKS, unpacked::ATTACKS, private::ATTACKS].concat()
}
