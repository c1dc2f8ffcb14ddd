//! Makes and removes the pods of an owner, and tells its events of it, as upstream's pod control does.

use std::sync::Arc;

use coracle_client::errors::{message_of, namespace_is_terminating};
use coracle_client::slow_start;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;

use crate::claims::name;
use crate::runtime::{Kind, Recorder, Writer};

/// One pod for each of `places`, with slow start. Gives how many were made, and why not all: that the namespace goes away is
/// no failure.
pub(crate) async fn create<O: Kind, P>(
    owner: &O,
    places: &[P],
    pod: impl Fn(&P) -> Pod,
    recorder: &Recorder,
    api: &Writer,
) -> (usize, Option<kube::Error>) {
    let one = |place: &P| {
        let pod = pod(place);
        async move {
            let made = api.create(&pod).await?;
            recorder.normal(owner, "SuccessfulCreate", format!("Created pod: {}", name(&made)));
            Ok::<_, kube::Error>(())
        }
    };
    let (made, failure) = slow_start(places, one).await;
    let failure = failure.filter(|error| !namespace_is_terminating(error));
    if let Some(error) = &failure {
        recorder.warning(owner, "FailedCreate", format!("Error creating: {}", message_of(error)));
    }
    (made.len(), failure)
}

/// Removes pods, all at once; that one is gone already is as good. Gives the last failure.
pub(crate) async fn delete<O: Kind>(
    owner: &O,
    victims: &[Arc<Pod>],
    recorder: &Recorder,
    api: &Writer,
) -> Option<kube::Error> {
    let results = join_all(victims.iter().map(|pod| api.delete(&**pod, None))).await;
    let mut failure = None;
    for (pod, result) in victims.iter().zip(results) {
        match result {
            Ok(true) => {
                recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", name(&**pod)));
            }
            Ok(false) => {}
            Err(error) => {
                recorder.warning(owner, "FailedDelete", format!("Error deleting: {}", message_of(&error)));
                failure = Some(error);
            }
        }
    }
    failure
}
