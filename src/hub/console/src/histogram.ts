// Owns the counts under the time slider: the hub's buckets, or the clips that are here, as bars. Pure.
import type { Bucket, Clip } from './api';

export interface Bar {
  from: number;
  to: number;
  clips: number;
}

const OWN_BARS = 120;

export function barsOf(counts: { bucket_s: number; buckets: Bucket[] } | undefined, clips: Clip[], from: number, to: number): Bar[] {
  if (counts) {
    const length = counts.bucket_s * 1000;
    return counts.buckets
      .map((b) => ({ from: Date.parse(b.start), to: Date.parse(b.start) + length, clips: b.clips }))
      .filter((bar) => bar.to > from && bar.from < to);
  }
  const length = (to - from) / OWN_BARS;
  const bars = Array.from({ length: OWN_BARS }, (_, i) => ({ from: from + i * length, to: from + (i + 1) * length, clips: 0 }));
  for (const clip of clips) {
    const i = Math.floor((Date.parse(clip.start) - from) / length);
    if (bars[i]) bars[i].clips += 1;
  }
  return bars;
}

/** Heights from 0 to 1: by the square root, so that one clip is still seen beside a hundred. */
export function heights(bars: Bar[]): number[] {
  const most = Math.max(1, ...bars.map((b) => b.clips));
  return bars.map((b) => Math.sqrt(b.clips / most));
}

/** The clips between two moments, as far as whole bars can tell. */
export function countBetween(bars: Bar[], from: number, to: number): number {
  return bars.reduce((n, bar) => (bar.from < to && bar.to > from ? n + bar.clips : n), 0);
}

/** Whole seconds, never less than one, never beyond the ends. */
export function selection(a: number, b: number, from: number, to: number): { from: number; to: number } {
  const round = (ms: number) => Math.round(ms / 1000) * 1000;
  const start = Math.max(from, round(Math.min(a, b)));
  const end = Math.min(to, Math.max(round(Math.max(a, b)), start + 1000));
  return { from: Math.min(start, end - 1), to: end };
}
