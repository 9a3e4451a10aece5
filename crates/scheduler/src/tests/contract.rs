//! The scheduler keeps the contract of a queue.

use super::*;

#[tokio::test]
async fn the_scheduler_is_a_queue() {
    let scheduler = start(&FakePipeline::default()).await;
    crate::contract::holds(&scheduler, || request(16, 3)).await;
}
