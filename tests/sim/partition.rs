//! A net that falls into parts and heals: what is sent across is held, as TCP sends it again until it gets there.

use crate::world::World;

impl World {
    /// Nothing passes between these nodes and the others any more. Nobody is told: connections are as silent as they are
    /// where a cable was pulled, and dials are not answered.
    pub fn cut_off(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|&node| self.nodes[node].part = 1);
    }

    /// The net is one again: what was sent meanwhile, on connections that still stand, arrives now.
    pub fn heal(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.part = 0);
        for action in std::mem::take(&mut self.held) {
            self.at(self.now, action);
        }
    }

    /// Whether the ends of a connection are in different parts.
    pub fn is_cut(&self, connection: usize) -> bool {
        let [one, other] = self.connections[connection].nodes;
        self.nodes[one].part != self.nodes[other].part
    }
}
