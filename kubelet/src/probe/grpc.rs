//! The gRPC health protocol. Upstream: pkg/probe/grpc

use std::time::Duration;

use tonic::transport::Endpoint;

use super::threshold::Outcome;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` in the protocol.
const SERVING: i32 = 1;

/// Asks the server at `address` for the health of `service`.
pub async fn check(address: &str, service: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, ask(address, service)).await {
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!(
            "service unhealthy (responded with \"{}\")",
            ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
                .get(usize::try_from(status).unwrap_or(0))
                .unwrap_or(&"UNKNOWN")
        )),
        Ok(Err(why)) => Outcome::Failure(why),
        Err(_) => {
            Outcome::Failure(format!("timeout: health rpc did not complete within {}", component::duration::format(timeout)))
        }
    }
}

async fn ask(address: &str, service: &str) -> Result<i32, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .user_agent("kube-probe/1.36")
        .map_err(|error| error.to_string())?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("timeout: failed to connect service \"{address}\": {}", component::chain(&error)))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = client.unary(tonic::Request::new(HealthCheckRequest { service: service.to_owned() }), path, codec).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == tonic::Code::Unimplemented => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Err(format!("error: health rpc failed: {status}")),
    }
}
