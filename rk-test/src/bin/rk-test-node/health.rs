//! The gRPC health protocol: serving, but for services named as ill.

use std::net::SocketAddr;

use tonic::{Request, Response, Status};

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod v1 {
    tonic::include_proto!("grpc.health.v1");
}

use v1::health_check_response::ServingStatus;
use v1::health_server::{Health, HealthServer};
use v1::{HealthCheckRequest, HealthCheckResponse};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:9000")]
    listen: SocketAddr,
    /// A service that is not well; may be given several times.
    #[arg(long)]
    ill: Vec<String>,
    /// A file whose existence makes every service ill.
    #[arg(long, default_value = "/tmp/ill")]
    ill_file: std::path::PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let listen = arguments.listen;
    println!("serving gRPC health on {listen}");
    tonic::transport::Server::builder().add_service(HealthServer::new(Answers(arguments))).serve(listen).await?;
    Ok(())
}

struct Answers(Arguments);

#[tonic::async_trait]
impl Health for Answers {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let ill = self.0.ill.contains(&request.into_inner().service) || self.0.ill_file.exists();
        let status = if ill { ServingStatus::NotServing } else { ServingStatus::Serving };
        Ok(Response::new(HealthCheckResponse { status: status as i32 }))
    }
}
