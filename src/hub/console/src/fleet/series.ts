// Owns what is drawn of the past week: figures as lines, states as a strip. Pure.
import { DAY_MS, formatClock, formatDate, ticks } from '../time';
import type { CameraHealth, DeviceState, FleetEvent } from './api';

export interface Dot {
  t: number;
  v: number;
}
export const WEEK_MS = 7 * DAY_MS;
/** Figures come each quarter of an hour; where two are further apart, nothing is known between them. */
export const HOLE_MS = 45 * 60_000;
/** More dots than a phone has columns say nothing more. */
const COLUMNS = 320;

/** One figure of the events, oldest first; what has no such figure is left out. */
export function series(events: FleetEvent[], figure: (event: FleetEvent) => number | undefined): Dot[] {
  const dots = events.flatMap((event) => {
    const [t, v] = [Date.parse(event.time), figure(event)];
    return v !== undefined && Number.isFinite(v) && Number.isFinite(t) ? [{ t, v }] : [];
  });
  return dots.sort((a, b) => a.t - b.t);
}

/** How far a camera's clock is off, in ms: its own where that is known, else that of what its pictures are stamped with. */
export const clockOff = (health: CameraHealth) => health.camera_clock_ms ?? health.clock.offset_ms;

/** At most two dots for each column, its lowest and its highest: a spike is never lost. */
export function thin(dots: Dot[], from: number, to: number, columns = COLUMNS): Dot[] {
  if (dots.length <= 2 * columns) return dots;
  const out: Dot[] = [];
  const column = (dot: Dot) => Math.floor(((dot.t - from) / (to - from)) * columns);
  for (let i = 0; i < dots.length; ) {
    let [low, high, next] = [i, i, i];
    while (next < dots.length && column(dots[next]) === column(dots[i])) {
      if (dots[next].v < dots[low].v) low = next;
      if (dots[next].v > dots[high].v) high = next;
      next += 1;
    }
    out.push(...[...new Set([low, high])].sort((a, b) => a - b).map((n) => dots[n]));
    i = next;
  }
  return out;
}

export interface Scale {
  low: number;
  high: number;
}

/** From zero, or below it where something is; never without height. */
export function scaleOf(dots: Dot[], limit?: number): Scale {
  const values = [...dots.map((dot) => dot.v), ...(limit === undefined ? [] : [limit])];
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  return high > low ? { low, high } : { low, high: low + 1 };
}

/** The line as an SVG path; it breaks where nothing is known, and a dot alone is a short stroke. */
export function line(dots: Dot[], from: number, to: number, { low, high }: Scale, width: number, height: number, hole_ms = HOLE_MS): string {
  const x = (t: number) => (((t - from) / (to - from)) * width).toFixed(1);
  const y = (v: number) => (height - ((v - low) / (high - low)) * height).toFixed(1);
  let path = '';
  dots.forEach((dot, i) => {
    const joins = i > 0 && dot.t - dots[i - 1].t <= hole_ms;
    const alone = !joins && (i + 1 === dots.length || dots[i + 1].t - dot.t > hole_ms);
    path += `${joins ? 'L' : 'M'}${x(dot.t)} ${y(dot.v)}${alone ? 'h1.5' : ''}`;
  });
  return path;
}

/** Where what is drawn begins: a week ago, or later where nothing is known before; an hour at least. */
export function beginning(first: number | undefined, to: number): number {
  const latest = to - 3600_000;
  return Math.max(to - WEEK_MS, Math.min(first ?? to - WEEK_MS, latest));
}

/** More than a phone's width holds is not written. */
const TICKS = 6;
export const ticksOf = (from: number, to: number) => ticks(new Date(from), new Date(to), TICKS);
/** Days by their date, hours by the clock. */
export const tickWords = (at: Date, from: number, to: number) => (to - from > 2 * DAY_MS ? formatDate(at).slice(0, 5) : formatClock(at, false));

export interface Stretch {
  state?: DeviceState;
  from: number;
  to: number;
}

/** The states of a time, oldest first; before the first word there is none. `states` come newest first. */
export function strip(states: { state: DeviceState; since: string }[], from: number, to: number): Stretch[] {
  const out: Stretch[] = [];
  let end = to;
  for (const { state, since } of states) {
    const start = Math.max(Date.parse(since), from);
    if (start < end) out.push({ state, from: start, to: end });
    end = Math.min(end, Math.max(Date.parse(since), from));
    if (end <= from) break;
  }
  if (end > from) out.push({ from, to: end });
  return out.reverse();
}
