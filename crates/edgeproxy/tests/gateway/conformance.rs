//! The API against its own description, by schemathesis: no fault, and no answer that the description does not have.

use std::process::Command;

use crate::hub::{Folder, Hub};

/// Where `make conformance` has installed it.
const PROGRAM: &str = "EDGEPROXY_SCHEMATHESIS";
/// So many requests for each endpoint and phase; all of it takes some 20 s.
const EXAMPLES: &str = "40";
/// What a gateway serves.
const PATHS: &str = "^/api/v1/(peers|overlay|openapi)|^/(healthz|health|readyz|metrics)$";

#[test]
#[ignore = "needs schemathesis; `make conformance` installs and runs it"]
fn a_gateway_answers_as_its_description_says() {
    let program = std::env::var(PROGRAM).unwrap_or_else(|_| panic!("{PROGRAM} is not set; run make conformance"));
    let token = "[[gateway.token]]\nname = \"op\"\nfile = \"op.token\"\nscope = \"manage\"\n";
    for (tables, header) in [("", None), (token, Some("Authorization: Bearer op-secret"))] {
        let folder = Folder::with(tables);
        folder.write("op.token", "op-secret");
        let hub = Hub::start(&folder);
        let address = format!("http://{}", hub.admin);
        let mut command = Command::new(&program);
        command.current_dir(folder.path()).args(["run", "--url", &address]);
        command.arg(format!("{address}/api/v1/openapi.json"));
        command.args(["--include-path-regex", PATHS, "--seed", "1", "--max-examples", EXAMPLES]);
        command.args(["--continue-on-failure", "--request-timeout", "10", "--suppress-health-check", "all"]);
        // What a schema cannot say of a request: a batch is answered one by one; a key of idempotency counts for one body;
        // sent again, it is answered as it was, also where the peer was removed since.
        let beyond = "positive_data_acceptance,negative_data_rejection,ensure_resource_availability";
        command.args(["--exclude-checks", beyond]);
        command.args(header.iter().flat_map(|header| ["--header", header]));
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
        println!(
            "{}",
            told.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        );
        assert!(hub.stop().success());
    }
}
