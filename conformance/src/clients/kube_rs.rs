//! The kube-rs programs of this crate, over TLS and in process.

use anyhow::Result;

use super::Site;
use crate::acceptance::clients::over_tls;
use crate::operator::program;
use crate::outcome::Ran;

pub(super) fn run(site: &Site, ran: &mut Ran) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kubeconfig = site.kubeconfig();
    ran.check("typed client, reflector, Controller, streaming list over TLS", || {
        runtime.block_on(async { program(over_tls(&kubeconfig).await?).await })
    });
    ran.check("the same program through the in-process transport", || {
        runtime.block_on(async {
            let server = coracle::testing::ControlPlane::start().await?;
            program(server.client()).await?;
            server.stop().await
        })
    });
    Ok(())
}
