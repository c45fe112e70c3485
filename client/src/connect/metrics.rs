//! `rest_client_*`: what was asked of the API server, how it answered, and how long that took.
//!
//! Upstream: component-base/metrics/prometheus/restclient

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use component::metrics::prometheus::{HistogramVec, IntCounterVec, register_histogram_vec, register_int_counter_vec};
use http::{Request, Response};
use tokio::time::Instant;
use tower::Service;

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of HTTP requests, partitioned by status code, method, and host.";
    register_int_counter_vec!("rest_client_requests_total", help, &["code", "method", "host"])
        .expect("the name is registered once, here")
});

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Request latency in seconds. Broken down by verb, and host.";
    let buckets = vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
    register_histogram_vec!("rest_client_request_duration_seconds", help, &["verb", "host"], buckets)
        .expect("the name is registered once, here")
});

/// Counts what passes through.
#[derive(Clone)]
pub(super) struct Counted<S>(pub(super) S);

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let host = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let (method, start) = (request.method().clone(), Instant::now());
        let answering = self.0.call(request);
        Box::pin(async move {
            let answer = answering.await;
            let code = answer.as_ref().map_or_else(|_| "<error>".to_owned(), |response| response.status().as_str().to_owned());
            REQUESTS.with_label_values(&[code.as_str(), method.as_str(), &host]).inc();
            DURATION.with_label_values(&[method.as_str(), &host]).observe(start.elapsed().as_secs_f64());
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_code_method_and_host() {
        let inner =
            tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::builder().status(404).body(()).unwrap()) });
        let request = Request::builder().method("PATCH").uri("https://counted.test:6443/x").body(()).unwrap();
        Counted(inner).call(request).await.unwrap();
        let text = component::metrics::render();
        let row = "rest_client_requests_total{code=\"404\",host=\"counted.test:6443\",method=\"PATCH\"} 1";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("rest_client_request_duration_seconds_count{host=\"counted.test:6443\",verb=\"PATCH\"} 1"));
    }
}
