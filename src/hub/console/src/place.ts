// Owns where: matching what is typed against areas, sites and cameras, and the geometry of the map.
// Pure; knows nothing of the page.
import type { Area, Device, Places, Point, Shape, Site, Street, Suggestion, View } from './api';
import { fold } from './time';

/** A line of the list under the place field, whoever proposed it. */
export type PlaceMatch =
  | { kind: 'point'; point: Point; name: string }
  | { kind: 'area'; area: Area; name: string; former?: string; until?: string }
  | { kind: 'site'; site: Site; name: string }
  | { kind: 'street'; street: Street; name: string; context?: string }
  | { kind: 'camera'; device: Device; site?: Site; name: string };

const MOST_MATCHES = 8;
const words = (text: string) => fold(text).split(/[^\p{L}\p{N}]+/u).filter(Boolean);

/** Coordinates as people paste them: decimal, degrees-minutes-seconds, a Google or OpenStreetMap link. */
export function parsePoint(text: string): Point | undefined {
  const found = fromLink(text) ?? fromDegrees(text) ?? fromDecimal(text);
  return found && Math.abs(found.lat) <= 90 && Math.abs(found.lon) <= 180 ? found : undefined;
}

/** "10.77, 106.69" or "10,77 106,69". */
function fromDecimal(text: string): Point | undefined {
  const m =
    /^\s*\(?\s*(-?\d{1,3}(?:\.\d+)?)\s*°?\s*[,;\s]\s*(-?\d{1,3}(?:\.\d+)?)\s*°?\s*\)?\s*$/.exec(text) ??
    /^\s*(-?\d{1,3},\d+)\s*[;\s]\s*(-?\d{1,3},\d+)\s*$/.exec(text);
  return m ? { lat: Number(m[1].replace(',', '.')), lon: Number(m[2].replace(',', '.')) } : undefined;
}

/** 10°44'25.7"N 106°41'43.1"E, with whatever signs for minutes and seconds. */
function fromDegrees(text: string): Point | undefined {
  const part = /(\d{1,3})\s*°\s*(?:(\d{1,2})\s*['’′]\s*)?(?:(\d{1,2}(?:[.,]\d+)?)\s*(?:["”″]|'')\s*)?([NSEWBĐ])/giu;
  const parts = [...text.matchAll(part)];
  if (parts.length !== 2) return undefined;
  const degrees = parts.map(([, d, m, s, side]) => {
    const value = Number(d) + Number(m ?? 0) / 60 + Number((s ?? '0').replace(',', '.')) / 3600;
    return { value: /[SW]/i.test(side) ? -value : value, isLat: /[NSB]/i.test(side) };
  });
  const [lat, lon] = [degrees.find((d) => d.isLat), degrees.find((d) => !d.isLat)];
  return lat && lon ? { lat: lat.value, lon: lon.value } : undefined;
}

function fromLink(text: string): Point | undefined {
  if (!/^\s*(https?:\/\/|geo:)/i.test(text)) return undefined;
  const pair = '(-?\\d{1,3}\\.\\d+)';
  const shapes = [`!3d${pair}!4d${pair}`, `[?&](?:q|query|ll|destination)=(?:loc:)?${pair}(?:,|%2C)\\s*${pair}`, `mlat=${pair}&mlon=${pair}`, `@${pair},${pair}`, `#map=\\d+(?:\\.\\d+)?/${pair}/${pair}`, `geo:${pair},${pair}`];
  for (const shape of shapes) {
    const m = new RegExp(shape, 'i').exec(text);
    if (m) return { lat: Number(m[1]), lon: Number(m[2]) };
  }
  return undefined;
}

/** How well the words asked for are found in a text: 0 not at all; house numbers may miss. */
function score(asked: string[], text: string): number {
  const have = words(text);
  let sum = 0;
  let missed = 0;
  for (const [i, word] of asked.entries()) {
    const last = i === asked.length - 1;
    if (have.includes(word)) sum += 3;
    else if ((last || word.length > 2) && have.some((w) => w.startsWith(word))) sum += 2;
    else if (/^\d/.test(word) && asked.length > 1) missed += 1;
    else return 0;
  }
  if (sum === 0) return 0;
  const starts = fold(text).startsWith(asked.join(' ')) ? 2 : 0;
  return sum / asked.length + starts - missed - have.length / 100;
}

/** What the text may mean, best first. */
export function matchPlaces(text: string, places: Places): PlaceMatch[] {
  const point = parsePoint(text);
  if (point) return [{ kind: 'point', point, name: formatPoint(point) }];
  const asked = words(text);
  if (asked.length === 0) return [];
  const found: { rank: number; match: PlaceMatch }[] = [];
  const add = (rank: number, match: PlaceMatch) => rank > 0 && found.push({ rank, match });

  for (const area of places.areas) {
    const own = score(asked, area.name);
    if (own > 0) add(own + 0.3, { kind: 'area', area, name: area.name });
    else {
      for (const former of area.former_names ?? []) {
        add(score(asked, former.name), { kind: 'area', area, name: area.name, former: former.name, until: former.until });
      }
    }
  }
  for (const site of places.sites) {
    add(Math.max(score(asked, site.name), score(asked, site.address ?? '')) + 0.2, { kind: 'site', site, name: site.name });
  }
  for (const street of places.streets ?? []) {
    add(score(asked, street.name) + 0.1, { kind: 'street', street, name: street.name });
  }
  for (const device of places.devices) {
    if (device.kind !== 'camera') continue;
    const site = places.sites.find((s) => s.id === device.site);
    add(score(asked, `${device.name} ${device.id}`), { kind: 'camera', device, site, name: device.name });
  }
  return found
    .filter((f) => f.rank > 0.2)
    .sort((a, b) => b.rank - a.rank)
    .slice(0, MOST_MATCHES)
    .map((f) => f.match);
}

/** The hub's proposals in the console's own words; what the console does not know yet is left out. */
export function fromSuggestions(suggestions: Suggestion[], places: Places): PlaceMatch[] {
  return suggestions.flatMap((s): PlaceMatch[] => {
    if (s.kind === 'coordinates') return s.point ? [{ kind: 'point', point: s.point, name: formatPoint(s.point) }] : [];
    if (s.kind === 'area') {
      const area = places.areas.find((a) => a.id === s.id) ?? { id: s.id ?? '', name: s.name, kind: '' };
      const until = area.former_names?.find((f) => f.name === s.former_name)?.until;
      return [{ kind: 'area', area, name: s.name, former: s.former_name, until: s.former_until ?? until }];
    }
    if (s.kind === 'site') {
      const site = places.sites.find((p) => p.id === s.id);
      return site ? [{ kind: 'site', site, name: s.name }] : [];
    }
    if (s.kind === 'street') {
      const street = places.streets?.find((p) => p.id === s.id);
      return street ? [{ kind: 'street', street, name: s.name, context: s.context }] : [];
    }
    const device = places.devices.find((d) => d.id === s.id);
    return device?.kind === 'camera' ? [{ kind: 'camera', device, site: places.sites.find((p) => p.id === device.site), name: s.name }] : [];
  });
}

export function formatPoint(point: Point): string {
  return `${point.lat.toFixed(5)}, ${point.lon.toFixed(5)}`;
}

// ---------- geometry (metres on a sphere; a ward is small) ----------

const EARTH_M = 6_371_000;
const rad = (deg: number) => (deg * Math.PI) / 180;

/** The point that lies `distance_m` from another under a heading (0 north, 90 east). */
export function travel(from: Point, heading_deg: number, distance_m: number): Point {
  const dLat = (distance_m * Math.cos(rad(heading_deg))) / EARTH_M;
  const dLon = (distance_m * Math.sin(rad(heading_deg))) / (EARTH_M * Math.cos(rad(from.lat)));
  return { lat: from.lat + (dLat * 180) / Math.PI, lon: from.lon + (dLon * 180) / Math.PI };
}

export type Ring = [lon: number, lat: number][];

export function circle(center: Point, radius_m: number): Ring {
  const ring: Ring = [];
  for (let i = 0; i <= 64; i++) ring.push(lonLat(travel(center, (i * 360) / 64, radius_m)));
  return ring;
}

/** What a camera sees: a sector from where it stands. */
export function sector(at: Point, heading_deg: number, angle_deg: number, reach_m: number): Ring {
  const ring: Ring = [lonLat(at)];
  const steps = Math.max(4, Math.ceil(angle_deg / 8));
  for (let i = 0; i <= steps; i++) {
    ring.push(lonLat(travel(at, heading_deg - angle_deg / 2 + (angle_deg * i) / steps, reach_m)));
  }
  ring.push(lonLat(at));
  return ring;
}

/** Every ring or line of a shape, longitude first; what is no shape has none. */
export function linesOf(shape: Shape | undefined): Ring[] {
  const isPair = (v: unknown): v is [number, number] => Array.isArray(v) && typeof v[0] === 'number' && typeof v[1] === 'number';
  const walk = (v: unknown): Ring[] => {
    if (!Array.isArray(v) || v.length === 0) return [];
    if (isPair(v)) return [[[v[0], v[1]]]];
    return isPair(v[0]) ? [v.filter(isPair).map(([lon, lat]) => [lon, lat])] : v.flatMap(walk);
  };
  return walk(shape);
}

/** What a camera sees, as a ring: a sector from where it stands, or the polygon somebody drew. */
export function viewRing(view: View, at: Point): Ring | undefined {
  return 'polygon' in view ? linesOf(view.polygon)[0] : sector(at, view.heading_deg, view.angle_deg, view.reach_m);
}

/** Metres between two points. */
export function distance(a: Point, b: Point): number {
  const x = rad(b.lon - a.lon) * Math.cos(rad((a.lat + b.lat) / 2));
  return Math.hypot(x, rad(b.lat - a.lat)) * EARTH_M;
}

/** A street as a band: its line, widened on both sides. Good enough to be looked at. */
export function corridor(line: Point[], width_m: number): Ring[] {
  const half = width_m / 2;
  return line.slice(1).map((to, i) => {
    const from = line[i];
    const heading = (Math.atan2((to.lon - from.lon) * Math.cos(rad(from.lat)), to.lat - from.lat) * 180) / Math.PI;
    const round = (at: Point, start: number) => Array.from({ length: 7 }, (_, k) => travel(at, heading + start + k * 30, half));
    const ring = [...round(to, -90), ...round(from, 90)].map(lonLat);
    return [...ring, ring[0]];
  });
}

/** Spots that would lie over one another on the screen, put together; each group stands in the middle of its own. */
export function clusters<T extends { x: number; y: number }>(spots: T[], cell_px: number): { x: number; y: number; members: T[] }[] {
  const cells = new Map<string, T[]>();
  for (const spot of spots) {
    const key = `${Math.floor(spot.x / cell_px)} ${Math.floor(spot.y / cell_px)}`;
    const cell = cells.get(key);
    if (cell) cell.push(spot);
    else cells.set(key, [spot]);
  }
  const middle = (members: T[], axis: 'x' | 'y') => members.reduce((sum, m) => sum + m[axis], 0) / members.length;
  return [...cells.values()].map((members) => ({ x: middle(members, 'x'), y: middle(members, 'y'), members }));
}

export const lonLat = (p: Point): [number, number] => [p.lon, p.lat];
export const fromLonLat = ([lon, lat]: [number, number]): Point => ({ lat, lon });

export type Bounds = [[west: number, south: number], [east: number, north: number]];

export function bounds(points: Point[], margin_m: number): Bounds | undefined {
  if (points.length === 0) return undefined;
  const lats = points.map((p) => p.lat);
  const lons = points.map((p) => p.lon);
  const southWest = travel(travel({ lat: Math.min(...lats), lon: Math.min(...lons) }, 180, margin_m), 270, margin_m);
  const northEast = travel(travel({ lat: Math.max(...lats), lon: Math.max(...lons) }, 0, margin_m), 90, margin_m);
  return [lonLat(southWest), lonLat(northEast)];
}

/** North, north-east, … as a key of the catalogue. */
export function compass(bearing_deg: number): 'n' | 'ne' | 'e' | 'se' | 's' | 'sw' | 'w' | 'nw' {
  return (['n', 'ne', 'e', 'se', 's', 'sw', 'w', 'nw'] as const)[Math.round((((bearing_deg % 360) + 360) % 360) / 45) % 8];
}
