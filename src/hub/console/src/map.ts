// Owns what both maps draw: the shapes of a ward as GeoJSON, and the words between a map and its frame.
import type { Feature, LineString, Polygon as PolygonShape } from 'geojson';
import type { Device, Places, Point } from './api';
import { circle, sector, travel, type Bounds } from './place';
import type { CameraState, Place } from './state.svelte';

/** Where a point of the ward lies on the screen right now. */
export type Project = (point: Point) => { x: number; y: number };

/** What the frame may ask of a map, whichever of the two it is. */
export interface MapHandle {
  zoom(step: 1 | -1): void;
  fit(to: Bounds): void;
}

export interface MapProps {
  shapes: Shapes;
  home: Bounds;
  theme: 'dark' | 'light';
  onpick: (point: Point) => void;
  onview: (project: Project) => void;
  onready: (handle: MapHandle) => void;
}

type Polygon = Feature<PolygonShape, { state: CameraState | 'circle' }>;
type Line = Feature<LineString, Record<string, never>>;
type Collection<F extends Feature> = { type: 'FeatureCollection'; features: F[] };

export interface Shapes {
  sectors: Collection<Polygon>;
  circle: Collection<Polygon>;
  grid: Collection<Line>;
}

const GRID_M = 100;
const GRID_LINES = 16;

export function shapes(places: Places, states: Map<string, CameraState>, place: Place, center: Point): Shapes {
  const sites = new Map(places.sites.map((s) => [s.id, s]));
  const sectors: Polygon[] = [];
  for (const device of places.devices) {
    const at = sites.get(device.site)?.point;
    if (at && device.kind === 'camera' && device.view) sectors.push(polygon(view(device.view, at), states.get(device.id) ?? 'unasked'));
  }
  const searched = place.kind === 'circle' ? [polygon(circle(place.point, place.radius_m), 'circle')] : [];
  return { sectors: collection(sectors), circle: collection(searched), grid: collection(grid(center)) };
}

const view = (v: NonNullable<Device['view']>, at: Point) => sector(at, v.heading_deg, v.angle_deg, v.reach_m);
const collection = <F extends Feature>(features: F[]): Collection<F> => ({ type: 'FeatureCollection', features });

function polygon(ring: [number, number][], state: CameraState | 'circle'): Polygon {
  return { type: 'Feature', properties: { state }, geometry: { type: 'Polygon', coordinates: [ring] } };
}

/** A faint square every 100 m: distance can be seen although there are no streets yet. */
function grid(center: Point): Line[] {
  const lines: Line[] = [];
  const half = GRID_M * GRID_LINES;
  for (let i = -GRID_LINES; i <= GRID_LINES; i++) {
    for (const [along, across] of [[0, 90], [90, 0]]) {
      const middle = travel(center, across, i * GRID_M);
      const a = travel(middle, along, -half);
      const b = travel(middle, along, half);
      lines.push({ type: 'Feature', properties: {}, geometry: { type: 'LineString', coordinates: [[a.lon, a.lat], [b.lon, b.lat]] } });
    }
  }
  return lines;
}

/** The page's colours, for a map that can't read style sheets. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
