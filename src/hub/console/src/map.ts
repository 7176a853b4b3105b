// Owns what both maps draw: the shapes of a ward as GeoJSON, and the words between a map and its frame.
import type { Feature, LineString, Point as PointShape, Polygon as PolygonShape } from 'geojson';
import type { Place } from './address';
import type { Clip, Places, Point } from './api';
import { circle, corridor, linesOf, lonLat, travel, viewRing, type Bounds, type Ring } from './place';
import type { CameraState, LampState } from './state.svelte';

/** Where a point of the ward lies on the screen right now. */
export type Project = (point: Point) => { x: number; y: number };

/** What the frame may ask of a map, whichever of the two it is. */
export interface MapHandle {
  zoom(step: 1 | -1): void;
  fit(to: Bounds): void;
}

/** A name that the base map's tiles carry; drawn by the page, because no glyphs come from anywhere. */
export interface TileName {
  name: string;
  kind: 'place' | 'road' | 'water';
  point: Point;
}

export interface MapProps {
  shapes: Shapes;
  home: Bounds;
  theme: 'dark' | 'light';
  /** Address of the base map's PMTiles file, where the hub has one. */
  basemap?: string;
  onpick: (point: Point) => void;
  onview: (project: Project) => void;
  onready: (handle: MapHandle) => void;
  onnames?: (names: TileName[]) => void;
}

type Of<G extends PolygonShape | LineString | PointShape, P> = Feature<G, P>;
type Collection<F extends Feature> = { type: 'FeatureCollection'; features: F[] };
type Nothing = Record<string, never>;

export interface Shapes {
  grid: Collection<Of<LineString, Nothing>>;
  areas: Collection<Of<PolygonShape, { asked: boolean }>>;
  streets: Collection<Of<LineString, Nothing>>;
  lamps: Collection<Of<LineString, { state: LampState }>>;
  heat: Collection<Of<PointShape, { clips: number }>>;
  asked: Collection<Of<PolygonShape, Nothing>>;
  sectors: Collection<Of<PolygonShape, { state: CameraState }>>;
  /** Stretches of street without light: dark, dark in part, and not known. */
  unlit_dark: Collection<Of<LineString, Nothing>>;
  unlit_partly: Collection<Of<LineString, Nothing>>;
  unlit_unknown: Collection<Of<LineString, Nothing>>;
  draft: Collection<Of<LineString, Nothing>>;
}
export const LAYERS = ['grid', 'areas', 'streets', 'asked', 'heat', 'sectors', 'unlit_unknown', 'unlit_partly', 'unlit_dark', 'lamps', 'draft'] as const satisfies (keyof Shapes)[];

const GRID_M = 100;
const GRID_LINES = 16;

export interface Drawn {
  places: Places;
  states: Map<string, CameraState>;
  /** By device, then circuit. */
  lamps: Map<string, Map<number, LampState>>;
  clips: Clip[];
  place: Place;
  drawing?: { kind: string; points: Point[] };
  /** Without light, by darkness. */
  unlit?: Record<'dark' | 'partly' | 'unknown', Ring[]>;
  center: Point;
}

export function shapes({ places, states, lamps, clips, place, drawing, unlit, center }: Drawn): Shapes {
  const sites = new Map(places.sites.map((s) => [s.id, s]));
  const cameras = places.devices.filter((d) => d.kind === 'camera');
  const sectors = cameras.flatMap((device) => {
    const at = sites.get(device.site)?.point;
    const ring = at && device.view && viewRing(device.view, at);
    return ring ? [polygon(ring, { state: states.get(device.id) ?? ('unasked' as CameraState) })] : [];
  });
  const circuits = places.devices.flatMap((device) =>
    (device.circuits ?? []).flatMap(({ circuit: number, route }) =>
      linesOf(route).filter((l) => l.length > 1).map((l) => line(l, { state: lamps.get(device.id)?.get(number) ?? ('unknown' as LampState) })),
    ),
  );
  const lines = (rings: Ring[] = []) => collection(rings.map((ring) => line(ring, {} as Nothing)));
  const streets = (places.streets ?? []).flatMap((street) => linesOf(street.line).map((l) => line(l, {} as Nothing)));
  return {
    grid: collection(streets.length ? [] : grid(center)),
    areas: collection(places.areas.flatMap((area) => linesOf(area.boundary).map((ring) => polygon(ring, { asked: place.kind === 'area' && place.id === area.id })))),
    streets: collection(streets),
    lamps: collection(circuits),
    heat: collection(heat(clips)),
    asked: collection(askedRings(place).map((ring) => polygon(ring, {} as Nothing))),
    sectors: collection(sectors),
    unlit_dark: lines(unlit?.dark),
    unlit_partly: lines(unlit?.partly),
    unlit_unknown: lines(unlit?.unknown),
    draft: collection(drawing && drawing.points.length > 1 ? [line(draftRing(drawing).map(lonLat), {} as Nothing)] : []),
  };
}

const draftRing = ({ kind, points }: { kind: string; points: Point[] }) => (kind === 'polygon' && points.length > 2 ? [...points, points[0]] : points);

/** The outline of what is asked about. */
export function askedRings(place: Place): Ring[] {
  if (place.kind === 'circle') return [circle(place.point, place.radius_m)];
  if (place.kind === 'polygon') return [[...place.ring, place.ring[0]].map(lonLat)];
  if (place.kind === 'route') return corridor(place.line, place.width_m);
  return [];
}

/** How many clips were found at each point. */
function heat(clips: Clip[]): Of<PointShape, { clips: number }>[] {
  const counts = new Map<string, { at: Point; clips: number }>();
  for (const { point } of clips) {
    if (!point) continue;
    const key = `${point.lat},${point.lon}`;
    const known = counts.get(key);
    if (known) known.clips += 1;
    else counts.set(key, { at: point, clips: 1 });
  }
  return [...counts.values()].map(({ at, clips: n }) => ({ type: 'Feature', properties: { clips: n }, geometry: { type: 'Point', coordinates: lonLat(at) } }));
}

/** The radius of a heat spot, in pixels: it grows slowly, so that a busy market does not hide the ward. */
export const heatRadius = (clips: number) => 10 + 5 * Math.sqrt(Math.min(clips, 100));

const collection = <F extends Feature>(features: F[]): Collection<F> => ({ type: 'FeatureCollection', features });
const polygon = <P extends object>(ring: Ring, properties: P): Of<PolygonShape, P> => ({ type: 'Feature', properties, geometry: { type: 'Polygon', coordinates: [ring] } });
const line = <P extends object>(points: Ring, properties: P): Of<LineString, P> => ({ type: 'Feature', properties, geometry: { type: 'LineString', coordinates: points } });

/** A faint square every 100 m: distance can be seen although there are no streets. */
function grid(center: Point): Of<LineString, Nothing>[] {
  const lines: Of<LineString, Nothing>[] = [];
  const half = GRID_M * GRID_LINES;
  for (let i = -GRID_LINES; i <= GRID_LINES; i++) {
    for (const [along, across] of [[0, 90], [90, 0]]) {
      const middle = travel(center, across, i * GRID_M);
      lines.push(line([lonLat(travel(middle, along, -half)), lonLat(travel(middle, along, half))], {} as Nothing));
    }
  }
  return lines;
}

/** Where a line's name is written: its longest straight piece on the screen, never upside down. */
export function nameSpot(points: { x: number; y: number }[]): { x: number; y: number; angle: number; length: number } | undefined {
  let best: { x: number; y: number; angle: number; length: number } | undefined;
  for (const [i, b] of points.slice(1).entries()) {
    const a = points[i];
    const length = Math.hypot(b.x - a.x, b.y - a.y);
    if (best && length <= best.length) continue;
    let angle = (Math.atan2(b.y - a.y, b.x - a.x) * 180) / Math.PI;
    if (angle > 90 || angle <= -90) angle += angle > 0 ? -180 : 180;
    best = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, angle, length };
  }
  return best;
}

/** The page's colours, for a map that can't read style sheets. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
