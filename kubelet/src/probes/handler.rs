//! One try of a probe, whatever its handler.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::time::Instant;

use super::{
    Outcome, Target, dial, grpc,
    http::{Get, Purpose},
};
use crate::{cri::RuntimeError, pods::expansion};

/// A try that could not be made is repeated at once, so often.
const TRIES: usize = 3;
/// Most of a command's output that an event shows.
const OUTPUT: usize = 10 * 1024;

pub(super) async fn attempt(target: &Target, probe: &Probe, limit: Duration) -> Outcome {
    let mut outcome = Outcome::Success;
    for _ in 0..TRIES {
        outcome = once(target, probe, limit).await;
        if !matches!(outcome, Outcome::Error(_)) {
            break;
        }
    }
    outcome
}

async fn once(target: &Target, probe: &Probe, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    if let Some(action) = &probe.exec {
        return exec(target, action.command.as_deref().unwrap_or_default(), limit).await;
    }
    if let Some(action) = &probe.http_get {
        let get = match Get::new(action, &target.container, target.ip, Purpose::Probe) {
            Ok(get) => get,
            Err(why) => return Outcome::Error(why),
        };
        return match get.send(deadline).await {
            Ok(reply) if (200..300).contains(&reply.status) => Outcome::Success,
            Ok(reply) if (300..400).contains(&reply.status) => {
                Outcome::Warning(format!("Probe terminated redirects, Response body: {}", reply.body))
            }
            Ok(reply) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", reply.status)),
            Err(error) => Outcome::Failure(error.to_string()),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let port = match port(&action.port, &target.container) {
            Ok(port) => port,
            Err(why) => return Outcome::Error(why),
        };
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.to_string());
        return match dial::dial(&host, port, deadline).await {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure(error.to_string()),
        };
    }
    if let Some(action) = &probe.grpc {
        let service = action.service.as_deref().unwrap_or_default();
        return match u16::try_from(action.port) {
            Ok(port) => grpc::check(&target.ip.to_string(), port, service, limit).await,
            Err(_) => Outcome::Error(format!("invalid port number: {}", action.port)),
        };
    }
    Outcome::Error(format!("missing probe handler for {}", target.container.name))
}

async fn exec(target: &Target, command: &[String], limit: Duration) -> Outcome {
    // As upstream: only the variables with a literal value are known here.
    let literal =
        target.container.env.iter().flatten().filter_map(|e| Some((e.name.clone(), e.value.clone()?)));
    let env: HashMap<String, String> = literal.collect();
    let mut room = expansion::MOST;
    let expanded = command.iter().map(|a| expansion::expand(a, &env, &mut room)).collect();
    let command: Vec<String> = match expanded {
        Ok(command) => command,
        Err(why) => return Outcome::Error(why),
    };
    match target.runtime.exec_sync(&target.id, &command, limit).await {
        Ok(done) if done.code == 0 => Outcome::Success,
        Ok(done) => {
            let shown = &done.output[..done.output.len().min(OUTPUT)];
            Outcome::Failure(String::from_utf8_lossy(shown).into_owned())
        }
        Err(RuntimeError::TimedOut(limit)) => {
            let command = command.join(" ");
            Outcome::Failure(format!(
                "command timed out: {command:?} timed out after {}",
                dial::seconds(limit)
            ))
        }
        Err(error) => Outcome::Error(error.to_string()),
    }
}

/// The number of a port given by number or by the name of a container port.
pub(super) fn port(port: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => i64::from(*n),
        IntOrString::String(name) => {
            let named = c.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named {
                Some(p) => i64::from(p.container_port),
                // It may be a number written as text.
                None => {
                    name.parse().map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"))?
                }
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}
