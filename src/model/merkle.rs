//! The Merkle tree hash of RFC 6962, section 2.1: one root commits to every fragment of a run.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Sha256Hash;

/// A tree that grows at its right edge; it keeps only the O(log n) subtree roots. Written down, it is these.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, Sha256Hash)>", into = "Vec<(u32, Sha256Hash)>")]
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

impl From<MerkleTree> for Vec<(u32, Sha256Hash)> {
    fn from(tree: MerkleTree) -> Self {
        tree.peaks.into_iter().map(|(height, root)| (height, Sha256Hash(root))).collect()
    }
}

impl TryFrom<Vec<(u32, Sha256Hash)>> for MerkleTree {
    type Error = &'static str;

    fn try_from(peaks: Vec<(u32, Sha256Hash)>) -> Result<Self, Self::Error> {
        let is_falling = peaks.windows(2).all(|pair| pair[0].0 > pair[1].0);
        if !is_falling || peaks.first().is_some_and(|first| first.0 >= u64::BITS) {
            return Err("subtrees come largest first, each size once");
        }
        let leaves = peaks.iter().map(|(height, _)| 1 << height).sum();
        Ok(Self { leaves, peaks: peaks.into_iter().map(|(height, root)| (height, root.0)).collect() })
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

    #[test]
    fn a_tree_that_was_written_down_goes_on_growing() {
        for n in 0..40 {
            let leaves: Vec<_> = (0..n).map(|n: u8| Sha256Hash::of(&[n])).collect();
            let json = serde_json::to_string(&MerkleTree::from_leaves(&leaves)).unwrap();
            let mut tree: MerkleTree = serde_json::from_str(&json).unwrap();
            let mut all = MerkleTree::from_leaves(&leaves);
            for leaf in [Sha256Hash::of(b"a"), Sha256Hash::of(b"b")] {
                tree.push(&leaf);
                all.push(&leaf);
                assert_eq!((tree.root(), tree.len()), (all.root(), all.len()));
            }
        }
        let root = Sha256Hash::of(b"");
        for bad in [vec![(1, root), (1, root)], vec![(0, root), (1, root)], vec![(64, root)]] {
            assert!(MerkleTree::try_from(bad).is_err());
        }
    }
}
