//! `coracle image`: the node's images, whether or not the cluster runs.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use coracle_kubelet::cri::ImageInfo;
use coracle_kubelet::images::{Images, ImagesConfig, Progress, ProgressFn};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Image;
use crate::data_dir::Layout;

pub async fn run(command: Image) -> Result<()> {
    match command {
        Image::Import { data, files } => {
            let images = open(data.data_dir.as_deref(), None, vec![]).await?;
            for file in files {
                import(&images, &file).await?;
            }
        }
        Image::Pull { data, registries, insecure_loopback_registry, images: names } => {
            let images = open(data.data_dir.as_deref(), registries, insecure_loopback_registry).await?;
            for name in names {
                let image =
                    images.pull(&name, &[], Some(bars())).await.with_context(|| format!("pulling {name}"))?;
                say(format_args!("{name}  {}", image.id))?;
            }
        }
        Image::Ls(data) => list(&open(data.data_dir.as_deref(), None, vec![]).await?.list())?,
        Image::Rm { data, images: names } => {
            let images = open(data.data_dir.as_deref(), None, vec![]).await?;
            for name in names {
                images.remove(&name).await.with_context(|| format!("removing {name}"))?;
                say(format_args!("removed {name}"))?;
            }
        }
    }
    Ok(())
}

async fn open(
    data_dir: Option<&Path>,
    mirrors_file: Option<PathBuf>,
    plain_http: Vec<String>,
) -> Result<Images> {
    let dir = Layout::of(data_dir)?.images();
    let config = ImagesConfig { dir: dir.clone(), mirrors_file, plain_http, ..ImagesConfig::default() };
    Images::open(config).await.with_context(|| format!("opening the images in {}", dir.display()))
}

async fn import(images: &Images, file: &Path) -> Result<()> {
    // An archive is read more than once, so what comes through a pipe is put down first.
    let mut piped = None;
    let path = if file == Path::new("-") {
        let mut temporary = tempfile_in(&std::env::temp_dir())?;
        std::io::copy(&mut std::io::stdin().lock(), &mut temporary.1)?;
        piped = Some(temporary.0.clone());
        temporary.0
    } else {
        file.to_owned()
    };
    let imported = images.import(&path, None).await;
    if let Some(path) = piped {
        std::fs::remove_file(&path)?;
    }
    let imported = imported.with_context(|| format!("importing {}", file.display()))?;
    if imported.is_empty() {
        bail!("{} holds no image", file.display());
    }
    for image in imported {
        say(format_args!("imported {}  {}", image.tags.join(" "), image.id))?;
    }
    Ok(())
}

fn tempfile_in(dir: &Path) -> Result<(PathBuf, std::fs::File)> {
    let path = dir.join(format!("coracle-import-{}.tar", std::process::id()));
    // An image may be private.
    let file = std::fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
    Ok((path.clone(), file.with_context(|| format!("creating {}", path.display()))?))
}

fn list(images: &[ImageInfo]) -> Result<()> {
    let rows = images.iter().flat_map(|image| {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let names = if image.tags.is_empty() { vec!["<none>".to_owned()] } else { image.tags.clone() };
        names.into_iter().map(move |name| (name, id.clone(), image.size_bytes))
    });
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("IMAGE".len());
    say(format_args!("{:width$}  {:12}  SIZE", "IMAGE", "ID"))?;
    for (name, id, bytes) in rows {
        say(format_args!("{name:width$}  {id}  {}", indicatif::HumanBytes(bytes)))?;
    }
    Ok(())
}

/// One progress bar a layer; silent where standard error is no terminal.
fn bars() -> ProgressFn {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let all = MultiProgress::with_draw_target(target);
    let style =
        ProgressStyle::with_template("{prefix:12} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bars: Mutex<HashMap<String, ProgressBar>> = Mutex::default();
    Arc::new(move |progress: Progress| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(progress.layer.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(progress.total_bytes).with_style(style.clone()));
            let short: String = progress.layer.trim_start_matches("sha256:").chars().take(12).collect();
            bar.with_prefix(short)
        });
        bar.set_position(progress.done_bytes);
        if progress.done_bytes >= progress.total_bytes {
            bar.finish();
        }
    })
}

fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("writing to standard output")
}
