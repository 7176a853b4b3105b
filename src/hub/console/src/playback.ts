// Owns what is played when: which clip of a camera covers a moment, what comes next, and why there is nothing. Pure.
import type { Clip, Coverage, Span } from './api';

/** What a camera has at a moment. */
export type Moment =
  | { kind: 'clip'; clip: Clip }
  | { kind: 'gap'; span: Span }
  /** Recorded, but nothing moved, so no clip was cut. */
  | { kind: 'calm'; onBox: boolean }
  | { kind: 'unknown' };

const ms = (time: string) => Date.parse(time);
const within = (span: { start: string; end: string }, at: number) => ms(span.start) <= at && at < ms(span.end);

/** Clips of one camera in the order they happened. */
export function clipsOf(clips: Clip[], device: string): Clip[] {
  return clips.filter((c) => c.device.id === device).sort((a, b) => ms(a.start) - ms(b.start));
}

/** Where clips overlap (a clock was set), the one that is open already, else the one that began last: it goes on. */
export function clipAt(clips: Clip[], at: number, open?: string): Clip | undefined {
  const covering = clips.filter((clip) => within(clip, at));
  return covering.find((clip) => clip.id === open) ?? covering.pop();
}

export function momentOf(clips: Clip[], coverage: Coverage | undefined, at: number, open?: string): Moment {
  const clip = clipAt(clips, at, open);
  if (clip) return { kind: 'clip', clip };
  const span = coverage?.spans.find((s) => within(s, at));
  if (!span) return { kind: 'unknown' };
  if (span.state === 'gap') return { kind: 'gap', span };
  return { kind: 'calm', onBox: coverage?.at_box?.some((stretch) => within(stretch, at)) ?? false };
}

export const playable = (clip: Clip | undefined): clip is Clip => clip?.links.video != null;

/** When footage begins next, on any of the cameras. */
export function nextStart(cameras: Clip[][], at: number): number | undefined {
  const starts = cameras.flatMap((clips) => clips.filter((c) => playable(c) && ms(c.start) > at).map((c) => ms(c.start)));
  return starts.length ? Math.min(...starts) : undefined;
}

/** When the footage before a moment ended, on any of the cameras. */
export function previousEnd(cameras: Clip[][], at: number): number | undefined {
  const ends = cameras.flatMap((clips) => clips.filter((c) => playable(c) && ms(c.end) <= at).map((c) => ms(c.end)));
  return ends.length ? Math.max(...ends) : undefined;
}

/** How fast a film that lags `behind_s` has to run to be in step again; `undefined`: it must jump. */
export function catchUp(behind_s: number, speed: number): number | undefined {
  const far = Math.max(0.35, 0.35 * speed);
  if (Math.abs(behind_s) > far) return undefined;
  if (Math.abs(behind_s) < 0.04) return speed;
  return Math.min(16, Math.max(0.0625, speed * (1 + Math.sign(behind_s) * Math.min(0.25, Math.abs(behind_s)))));
}

export interface Zoom {
  scale: number;
  /** Shift of the picture's middle, as a share of its width and height. */
  x: number;
  y: number;
}
export const NO_ZOOM: Zoom = { scale: 1, x: 0, y: 0 };
export const ZOOM_MAX = 8;

/** Zooms so that the point under the fingers (−0.5 to 0.5 from the middle) stays where it is. */
export function zoomAt(zoom: Zoom, factor: number, px = 0, py = 0): Zoom {
  const scale = Math.min(ZOOM_MAX, Math.max(1, zoom.scale * factor));
  const k = scale / zoom.scale;
  return hold({ scale, x: px - (px - zoom.x) * k, y: py - (py - zoom.y) * k });
}

export const panBy = (zoom: Zoom, dx: number, dy: number): Zoom => hold({ ...zoom, x: zoom.x + dx, y: zoom.y + dy });

/** The picture never leaves its frame. */
function hold(zoom: Zoom): Zoom {
  const most = (zoom.scale - 1) / 2;
  const within = (v: number) => Math.min(most, Math.max(-most, v)) + 0;
  return { scale: zoom.scale, x: within(zoom.x), y: within(zoom.y) };
}
