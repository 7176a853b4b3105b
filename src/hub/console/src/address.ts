// Owns how what was chosen is written into the page's address and read back. Pure: a link is all it knows.
import type { Point, Question } from './api';
import { WEEKDAY_NAMES, type Range, type Weekday } from './time';

export type Place =
  | { kind: 'everywhere' }
  | { kind: 'circle'; point: Point; radius_m: number; name?: string }
  | { kind: 'area'; id: string }
  | { kind: 'polygon'; ring: Point[] }
  | { kind: 'route'; line: Point[]; width_m: number; name?: string }
  | { kind: 'sees'; point: Point; name?: string };

/** What the officer chose, apart from the clip that is open. */
export interface Choice {
  place: Place;
  range?: Range;
  devices: string[];
  order: 'newest' | 'oldest';
}

export const DEFAULT_RADIUS_M = 200;
export const DEFAULT_WIDTH_M = 60;
/** More corners than a person draws; the hub has a limit of its own. */
const CORNERS_MAX = 200;

const write = (p: Point) => `${p.lat.toFixed(6)},${p.lon.toFixed(6)}`;
const writeAll = (points: Point[]) => points.map(write).join(';');

function readPoint(text: string | null): Point | undefined {
  const [lat, lon] = (text ?? '').split(',').map((part) => (part.trim() === '' ? NaN : Number(part)));
  return Math.abs(lat) <= 90 && Math.abs(lon) <= 180 ? { lat, lon } : undefined;
}

function readPoints(text: string | null, least: number): Point[] | undefined {
  const points = (text ?? '').split(';').slice(0, CORNERS_MAX).map(readPoint);
  return points.length >= least && points.every((p) => p !== undefined) ? (points as Point[]) : undefined;
}

export function writeChoice({ place, range, devices, order }: Choice): URLSearchParams {
  const query = new URLSearchParams();
  if (place.kind === 'circle') {
    query.set('at', write(place.point));
    query.set('r', String(place.radius_m));
  }
  if (place.kind === 'polygon') query.set('poly', writeAll(place.ring));
  if (place.kind === 'route') {
    query.set('route', writeAll(place.line));
    query.set('w', String(place.width_m));
  }
  if (place.kind === 'sees') query.set('sees', write(place.point));
  if ('name' in place && place.name) query.set('name', place.name);
  if (place.kind === 'area') query.set('area', place.id);
  if (devices.length) query.set('cam', devices.join(','));
  if (range?.last_s) query.set('last', String(range.last_s));
  else if (range) {
    query.set('from', range.from.toISOString().replace('.000', ''));
    query.set('to', range.to.toISOString().replace('.000', ''));
    if (range.hours) query.set('hours', range.hours);
    if (range.weekdays?.length) query.set('days', range.weekdays.join(','));
  }
  if (order === 'oldest') query.set('order', 'oldest');
  return query;
}

/** The query as people can still read it: commas, semicolons and colons need no code. */
export const plain = (query: URLSearchParams) => query.toString().replace(/%(2C|3B|3A)/g, (code) => decodeURIComponent(code));

export function readChoice(query: URLSearchParams, now: Date): Choice {
  return {
    place: readPlace(query),
    range: readRange(query, now),
    devices: (query.get('cam') ?? '').split(',').filter(Boolean),
    order: query.get('order') === 'oldest' ? 'oldest' : 'newest',
  };
}

function readPlace(query: URLSearchParams): Place {
  const name = query.get('name') ?? undefined;
  const at = readPoint(query.get('at'));
  const radius = Number(query.get('r'));
  if (at) return { kind: 'circle', point: at, radius_m: radius > 0 ? radius : DEFAULT_RADIUS_M, name };
  const ring = readPoints(query.get('poly'), 3);
  if (ring) return { kind: 'polygon', ring };
  const line = readPoints(query.get('route'), 2);
  const width = Number(query.get('w'));
  if (line) return { kind: 'route', line, width_m: width > 0 ? width : DEFAULT_WIDTH_M, name };
  const seen = readPoint(query.get('sees'));
  if (seen) return { kind: 'sees', point: seen, name };
  const area = query.get('area');
  return area ? { kind: 'area', id: area } : { kind: 'everywhere' };
}

function readRange(query: URLSearchParams, now: Date): Range | undefined {
  const last = Number(query.get('last'));
  if (last > 0) return { from: new Date(now.getTime() - last * 1000), to: now, last_s: last };
  const from = new Date(query.get('from') ?? NaN);
  const to = new Date(query.get('to') ?? NaN);
  if (!(from < to)) return undefined;
  const hours = /^\d\d:\d\d-\d\d:\d\d$/.exec(query.get('hours') ?? '')?.[0];
  const weekdays = (query.get('days') ?? '').split(',').filter((d): d is Weekday => (WEEKDAY_NAMES as readonly string[]).includes(d));
  return { from, to, ...(hours ? { hours } : {}), ...(weekdays.length ? { weekdays } : {}) };
}

/** The same choice in the hub's words. */
export function toQuestion({ place, range, devices, order }: Choice): Question {
  const pairs = (points: Point[]) => points.map((p) => [round(p.lon), round(p.lat)]);
  const question: Question = { from: range?.from.toISOString(), to: range?.to.toISOString(), hours: range?.hours, weekdays: range?.weekdays, order };
  if (devices.length) question.device = devices;
  if (place.kind === 'circle') Object.assign(question, { lat: round(place.point.lat), lon: round(place.point.lon), radius_m: place.radius_m });
  if (place.kind === 'area') question.area = place.id;
  if (place.kind === 'sees') question.sees = write(place.point);
  if (place.kind === 'polygon') question.polygon = { type: 'Polygon', coordinates: [pairs([...place.ring, place.ring[0]])] };
  if (place.kind === 'route') Object.assign(question, { route: { type: 'LineString', coordinates: pairs(place.line) }, width_m: place.width_m });
  return question;
}

const round = (degrees: number) => Number(degrees.toFixed(6));
