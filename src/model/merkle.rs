//! The Merkle tree hash of RFC 6962, section 2.1: one root commits to every fragment of a run.

use sha2::{Digest, Sha256};

use super::Sha256Hash;

/// A tree that grows at its right edge; it keeps only the O(log n) subtree roots.
#[derive(Debug, Clone, Default)]
pub struct MerkleTree {
    leaves: u64,
    /// Roots of complete subtrees, largest first, with their sizes as powers of two.
    peaks: Vec<(u32, [u8; 32])>,
}

impl MerkleTree {
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree over `leaves`, in order.
    pub fn from_leaves<'a>(leaves: impl IntoIterator<Item = &'a Sha256Hash>) -> Self {
        let mut tree = Self::new();
        for leaf in leaves {
            tree.push(leaf);
        }
        tree
    }

    /// Adds the hash of one more fragment as a leaf.
    pub fn push(&mut self, leaf: &Sha256Hash) {
        let mut node = (0, leaf_hash(&leaf.0));
        while let Some(&(height, left)) = self.peaks.last()
            && height == node.0
        {
            self.peaks.pop();
            node = (height + 1, node_hash(&left, &node.1));
        }
        self.peaks.push(node);
        self.leaves += 1;
    }

    pub fn len(&self) -> u64 {
        self.leaves
    }

    pub fn is_empty(&self) -> bool {
        self.leaves == 0
    }

    /// The root; of the empty tree the SHA-256 of nothing, as the RFC says.
    pub fn root(&self) -> Sha256Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(&(_, mut root)) = peaks.next() else {
            return Sha256Hash::of(b"");
        };
        for (_, left) in peaks {
            root = node_hash(left, &root);
        }
        Sha256Hash(root)
    }
}

fn leaf_hash(data: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recursive definition of RFC 6962, word by word.
    fn root_by_definition(leaves: &[Sha256Hash]) -> [u8; 32] {
        match leaves.len() {
            0 => Sha256::digest(b"").into(),
            1 => leaf_hash(&leaves[0].0),
            n => {
                let k = 1 << (n - 1).ilog2();
                node_hash(&root_by_definition(&leaves[..k]), &root_by_definition(&leaves[k..]))
            }
        }
    }

    #[test]
    fn the_growing_tree_equals_the_definition() {
        let leaves: Vec<_> = (0..70u8).map(|n| Sha256Hash::of(&[n])).collect();
        for n in 0..=leaves.len() {
            let tree = MerkleTree::from_leaves(&leaves[..n]);
            assert_eq!(tree.root().0, root_by_definition(&leaves[..n]), "{n} leaves");
            assert_eq!(tree.len(), n as u64);
        }
    }
}
