//! Makes a picture small: the mean of each block of pixels.
//!
//! Owns the size that motion is looked for in. Pure. A mean has less noise than any pixel of its block, and costs less
//! than decoding by far.

/// Small pictures are at most so wide, pixels.
const WIDTH_MAX: usize = 360;

/// How a picture of some size is made small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrink {
    /// Side of a block, pixels.
    pub step: usize,
    /// Size of the small picture; what is left over at the right and below is not in it.
    pub width: usize,
    pub height: usize,
}

impl Shrink {
    /// For pictures of `width` by `height` pixels; none if nothing would be left of them.
    pub fn of(width: usize, height: usize) -> Option<Self> {
        let step = width.div_ceil(WIDTH_MAX).max(1);
        let small = Self { step, width: width / step, height: height / step };
        (small.width > 0 && small.height > 0).then_some(small)
    }

    /// The means of the blocks of `luma`, whose rows begin `stride` bytes apart. None if there are too few bytes.
    pub fn means(&self, luma: &[u8], stride: usize) -> Option<Vec<u8>> {
        let wide = self.width * self.step;
        let bytes = stride * (self.height * self.step).checked_sub(1)? + wide;
        if stride < wide || luma.len() < bytes {
            return None;
        }
        let pixels = (self.step * self.step) as u32;
        let mut small = Vec::with_capacity(self.width * self.height);
        let mut sums = vec![0u32; self.width];
        for row in 0..self.height {
            sums.fill(pixels / 2);
            for line in 0..self.step {
                let from = (row * self.step + line) * stride;
                let line = &luma[from..from + wide];
                let mut at = 0;
                for sum in &mut sums {
                    for _ in 0..self.step {
                        *sum += line[at] as u32;
                        at += 1;
                    }
                }
            }
            small.extend(sums.iter().map(|sum| (sum / pixels) as u8));
        }
        Some(small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_are_means_of_whole_blocks() {
        // (size, step, small size)
        let table = [
            ((1920, 1080), 6, (320, 180)),
            ((1280, 720), 4, (320, 180)),
            ((768, 576), 3, (256, 192)),
            ((640, 360), 2, (320, 180)),
            ((352, 288), 1, (352, 288)),
        ];
        for ((width, height), step, (wide, tall)) in table {
            assert_eq!(Shrink::of(width, height), Some(Shrink { step, width: wide, height: tall }));
        }
        assert_eq!(Shrink::of(4000, 3), None);
        let small = Shrink { step: 2, width: 2, height: 1 };
        let luma = [10, 20, 0, 1, 99, 99, 30, 41, 2, 4, 99, 99];
        assert_eq!(small.means(&luma, 6), Some(vec![25, 2]));
        assert_eq!(small.means(&luma[..10], 6), Some(vec![25, 2]), "the last row needs no padding");
        assert_eq!(small.means(&luma[..9], 6), None);
        assert_eq!(small.means(&luma, 3), None);
    }
}
