//! Clients that are attached, and whose input ends.

use coracle_kubelet::cri::AttachSpec;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::*;

/// It stays where the container's input ends with it, and is let go where that stays open.
pub(super) async fn all(node: &Node) {
    let runtime = &node.runtime;
    node.pod("attach", false).await;
    for (stdin_once, tty, stays) in [(true, false, true), (false, false, false), (true, true, false)] {
        let case = format!("stdinOnce {stdin_once}, tty {tty}");
        let log_path = format!("attach-{stdin_once}-{tty}.log").into();
        let spec = node.spec("attach", "cat; echo closed");
        let id = node.run(&ContainerSpec { stdin: true, stdin_once, tty, log_path, ..spec }).await;
        let streams = AttachSpec { stdin: true, stdout: true, stderr: !tty };
        let mut session = runtime.attach(&id, streams).await.expect("attach");
        let mut stdin = session.stdio.stdin.take().expect("stdin");
        let mut stdout = BufReader::new(session.stdio.stdout.take().expect("stdout"));
        stdin.write_all(b"hello\n").await.expect("write");
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("an echo").expect("read");
        assert_eq!(line.trim(), "hello", "{case}");
        drop(stdin);
        let mut rest = String::new();
        let end_of_output = tokio::time::timeout(PATIENCE, stdout.read_to_string(&mut rest)).await;
        end_of_output.unwrap_or_else(|_| panic!("{case}: the client is kept")).expect("read");
        assert_eq!(rest.contains("closed"), stays, "{case}: {rest:?}");
        if stays {
            assert_eq!(end(runtime, &id).await, (0, false), "{case}");
        } else {
            let state = runtime.container(&id).expect("container").state;
            assert!(matches!(state, ContainerState::Running { .. }), "{case}: {state:?}");
            runtime.stop_container(&id, None, Duration::ZERO).await.expect("stop");
        }
    }
    runtime.remove_sandbox("attach").await.expect("remove");
}
