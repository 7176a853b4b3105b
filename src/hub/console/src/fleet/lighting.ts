// Owns what is told of lamps: which circuits come first, how each is doing, and where streets lie dark. Pure.
import type { Point } from '../api';
import { lonLat, travel, type Ring } from '../place';
import type { Circuit, Darkness, DarkStretch } from './api';

/** The darkest first. */
export const DARKNESSES: Darkness[] = ['dark', 'partly', 'unknown'];
export type Doing = 'by_day' | 'fault' | 'unknown' | 'dark' | 'lit';

/** Nothing is heard of it: what it said last is not what it does now. */
const OUT_OF_REACH = ['box_silent', 'silent', 'cabinet_unreachable'];
/** A lamp alone is drawn as a short piece of its street. */
const ALONE_M = 6;

/** How a circuit is doing now. */
export function doing({ on, light, troubles }: Circuit): Doing {
  if (troubles.some((trouble) => OUT_OF_REACH.includes(trouble))) return 'unknown';
  if (troubles.includes('on_by_day') || (on && light === 'day')) return 'by_day';
  if (troubles.length > 0) return 'fault';
  return on === undefined ? 'unknown' : on ? 'lit' : 'dark';
}

/** What burns by day first, then what fails, then the rest; of these what burnt longest by day in the month. */
export function inOrder(circuits: Circuit[]): Circuit[] {
  const rank = (circuit: Circuit) => (doing(circuit) === 'by_day' ? 0 : circuit.troubles.length > 0 ? 1 : 2);
  const byName = (a: Circuit, b: Circuit) => a.name.localeCompare(b.name, 'vi', { numeric: true }) || a.circuit - b.circuit;
  return circuits.slice().sort((a, b) => rank(a) - rank(b) || b.by_day_s - a.by_day_s || byName(a, b));
}

/** The month's energy; nothing where no meter counted anything. */
export function energy(circuits: Circuit[]): number | undefined {
  const sum = circuits.reduce((kwh, circuit) => kwh + circuit.energy_kwh, 0);
  return sum > 0 || circuits.every((circuit) => circuit.burnt_s === 0 && circuit.known_s > 0) ? sum : undefined;
}

/** By day lamps are off: a circuit that will stay dark shows itself only when it is switched on. */
export const isDay = (circuits: Circuit[]) => circuits.length > 0 && circuits.every(({ light }) => light === 'day');

/** The lines to draw of all stretches of one darkness. */
export function darkLines(stretches: DarkStretch[], darkness: Darkness): Ring[] {
  const lamps = stretches.filter((stretch) => stretch.darkness === darkness).flatMap((stretch) => stretch.lamps);
  return lamps.filter(({ route }) => route.length > 0).map(({ route }) => (route.length > 1 ? route : alone(route[0])).map(lonLat));
}

const alone = (point: Point): Point[] => [travel(point, 270, ALONE_M), travel(point, 90, ALONE_M)];
