// Owns where: matching what is typed against areas, sites and cameras, and the geometry of the map.
// Pure; knows nothing of the page.
import type { Area, Device, Places, Point, Site } from './api';
import { fold } from './time';

export type PlaceMatch =
  | { kind: 'point'; point: Point; name: string }
  | { kind: 'area'; area: Area; name: string; former?: string; until?: string }
  | { kind: 'site'; site: Site; name: string }
  | { kind: 'camera'; device: Device; site?: Site; name: string };

const MOST_MATCHES = 8;
const words = (text: string) => fold(text).split(/[^\p{L}\p{N}]+/u).filter(Boolean);

/** "10.77, 106.69" or "10,77 106,69"; nothing outside the globe. */
export function parsePoint(text: string): Point | undefined {
  const m =
    /^\s*\(?\s*(-?\d{1,3}(?:\.\d+)?)\s*°?\s*[,;\s]\s*(-?\d{1,3}(?:\.\d+)?)\s*°?\s*\)?\s*$/.exec(text) ??
    /^\s*(-?\d{1,3},\d+)\s*[;\s]\s*(-?\d{1,3},\d+)\s*$/.exec(text);
  if (!m) return undefined;
  const lat = Number(m[1].replace(',', '.'));
  const lon = Number(m[2].replace(',', '.'));
  return Math.abs(lat) <= 90 && Math.abs(lon) <= 180 ? { lat, lon } : undefined;
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

const lonLat = (p: Point): [number, number] => [p.lon, p.lat];

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
