//! Figures of the cluster at one instant.

use std::collections::BTreeMap;

use bursar_core::model::Key;

use crate::cluster::{Demand, PodObject};
use crate::event_queue::{SimEvent, later};
use crate::metrics::{Sample, ServiceSample, percentile};
use crate::simulation::Simulation;

impl Simulation {
    /// Notes the figures of now, and when they are noted next.
    pub(crate) fn sample(&mut self) {
        let mut sample = Sample {
            at: self.now,
            ..Sample::default()
        };
        for (key, service) in &self.cluster.services {
            let pods = service
                .pods
                .iter()
                .filter_map(|pod| self.cluster.pods.get(pod));
            let busy: u64 = pods.map(|pod| pod.busy()).sum();
            let gateways = self.cluster.gateways.values();
            let held: u64 = gateways
                .filter_map(|gateway| Some(gateway.requests.get(key)?.len() as u64))
                .sum();
            let figures = self.metrics.services.get_mut(key);
            let first_token_ms = figures.and_then(|figures| {
                let mut window = std::mem::take(&mut figures.window);
                Some((percentile(&mut window, 50)?, percentile(&mut window, 95)?))
            });
            let one = ServiceSample {
                ready: u32::try_from(service.endpoints.len()).unwrap_or(u32::MAX),
                ordered: service
                    .deployment
                    .as_ref()
                    .map_or(0, |found| found.replicas),
                queue: busy + held,
                first_token_ms,
            };
            sample.services.insert(key.clone(), one);
        }
        for (key, budget) in &self.cluster.budgets {
            let within = budget.period.bounds(self.now, &self.zone);
            let spent = self.ledger.spent(&key.namespace, within, self.now);
            sample.budgets.insert(key.clone(), (spent, budget.limit));
        }
        let jobs = self
            .cluster
            .jobs
            .values()
            .flat_map(|job| job.pods.values().flatten());
        let workers = jobs.filter(|pod| {
            let pod = self.cluster.pods.get(pod);
            pod.is_some_and(|found| found.stays() && found.pod.ready_since.is_some())
        });
        sample.workers = u32::try_from(workers.count()).unwrap_or(u32::MAX);
        for node in self.cluster.nodes.values() {
            let of = |amounts: &BTreeMap<String, i64>| {
                amounts.get(crate::cluster::GPU).copied().unwrap_or(0) / 1000
            };
            sample.gpus.0 += of(&node.used);
            sample.gpus.1 += of(&node.node.allocatable);
        }
        self.metrics.samples.push(sample);
        let next = later(self.now, self.metrics.sample_every);
        if next > self.now {
            self.event_queue.add(next, SimEvent::Sample);
        }
    }

    /// Requests that are still waiting or running.
    pub(crate) fn unfinished(&self, key: &Key) -> u64 {
        let Some(service) = self.cluster.services.get(key) else {
            return 0;
        };
        if let Demand::Depth(_) = service.demand {
            return 0;
        }
        let pods = service
            .pods
            .iter()
            .filter_map(|pod| self.cluster.pods.get(pod));
        let busy: u64 = pods.map(|pod: &PodObject| pod.busy()).sum();
        let gateways = self.cluster.gateways.values();
        let held = gateways.filter_map(|gateway| Some(gateway.requests.get(key)?.len() as u64));
        busy + held.sum::<u64>()
    }
}
