//! SHA-256 trees over the 16 KiB blocks of a file (BEP 52): roots of layers.
//!
//! A leaf is the hash of one block; missing leaves up to the next power of two are 32 zero bytes. Proofs for single
//! hashes are not here: nothing asks for them yet.

use sha2::{Digest, Sha256};

/// One node of a tree.
pub type Hash = [u8; 32];

/// The node above two others.
pub fn parent(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The root of a tree that has only missing leaves, 2^`levels` of them.
pub fn missing_root(levels: u32) -> Hash {
    (0..levels).fold([0; 32], |node, _| parent(&node, &node))
}

/// The root above one layer of a tree: `layer` holds the layer's nodes from the left, each 2^`levels` leaves wide;
/// nodes beyond the file's end are left out. An empty layer has the root of a tree without leaves.
pub fn root_of_layer(layer: &[Hash], levels: u32) -> Hash {
    let mut nodes = layer.to_vec();
    let mut missing = missing_root(levels);
    while nodes.len() > 1 {
        nodes = nodes.chunks(2).map(|pair| parent(&pair[0], pair.get(1).unwrap_or(&missing))).collect();
        missing = parent(&missing, &missing);
    }
    nodes.first().copied().unwrap_or(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word by word: all leaves, padded to a power of two.
    fn naive_root(leaves: &[Hash]) -> Hash {
        let mut nodes = leaves.to_vec();
        nodes.resize(leaves.len().next_power_of_two(), [0; 32]);
        while nodes.len() > 1 {
            nodes = nodes.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
        }
        nodes[0]
    }

    #[test]
    fn a_layer_has_the_root_of_its_leaves() {
        for count in 1..40_u8 {
            let leaves: Vec<Hash> = (0..count).map(|n| [n + 1; 32]).collect();
            assert_eq!(root_of_layer(&leaves, 0), naive_root(&leaves), "{count} leaves");
            let layer: Vec<Hash> = leaves
                .chunks(4)
                .map(|leaves| {
                    let mut four = leaves.to_vec();
                    four.resize(4, [0; 32]);
                    naive_root(&four)
                })
                .collect();
            if layer.len() > 1 {
                assert_eq!(root_of_layer(&layer, 2), naive_root(&leaves), "{count} leaves in pieces of 4");
            }
        }
    }

    #[test]
    fn missing_leaves_are_zeros() {
        assert_eq!(missing_root(0), [0; 32]);
        assert_eq!(missing_root(3), naive_root(&[[0; 32]; 8]));
    }
}
