// Owns the base map's tiles: reads the hub's PMTiles file, and says how its layers are drawn and named.
// Knows the layer names of the two common schemas, Protomaps and OpenMapTiles. Loaded only with the map.
import type { LayerSpecification, MapGeoJSONFeature } from 'maplibre-gl';
import type maplibregl from 'maplibre-gl';
import { PMTiles, Protocol } from 'pmtiles';
import type { TileName } from './map';

const NAMES_MAX = 60;
type Colour = (name: string) => string;

/** Opens the file and tells the names of its layers. */
export async function addTiles(gl: typeof maplibregl, url: string): Promise<Set<string>> {
  const protocol = new Protocol();
  gl.addProtocol('pmtiles', protocol.tile);
  const file = new PMTiles(url);
  protocol.add(file);
  const metadata = (await file.getMetadata()) as { vector_layers?: { id: string }[] };
  return new Set((metadata.vector_layers ?? []).map((layer) => layer.id));
}

const AREAS: [layer: string, id: string][] = [
  ['landcover', 'base-land'],
  ['landuse', 'base-use'],
  ['water', 'base-water'],
  ['buildings', 'base-buildings'],
  ['building', 'base-buildings'],
];
const LINES: [layer: string, id: string][] = [
  ['waterway', 'base-stream'],
  ['roads', 'base-roads'],
  ['transportation', 'base-roads'],
  ['boundaries', 'base-edges'],
  ['boundary', 'base-edges'],
];
const NAMED: [layer: string, id: string, type: 'symbol-line' | 'symbol-point'][] = [
  ['places', 'base-place-names', 'symbol-point'],
  ['place', 'base-place-names', 'symbol-point'],
  ['transportation_name', 'base-road-names', 'symbol-line'],
];
/** Layers whose names are written by the page. */
export const NAME_LAYERS = ['base-place-names', 'base-road-names', 'base-roads'];

export function tilePaints(colour: Colour): Record<string, Record<string, unknown>> {
  return {
    'base-land': { 'fill-color': colour('ok'), 'fill-opacity': 0.05 },
    'base-use': { 'fill-color': colour('ok'), 'fill-opacity': 0.06 },
    'base-water': { 'fill-color': colour('recorded'), 'fill-opacity': 0.45 },
    'base-stream': { 'line-color': colour('recorded'), 'line-width': 2 },
    'base-buildings': { 'fill-color': colour('muted'), 'fill-opacity': 0.12 },
    'base-roads': { 'line-color': colour('line'), 'line-width': ['interpolate', ['exponential', 2], ['zoom'], 12, 1, 19, 14] },
    'base-edges': { 'line-color': colour('muted'), 'line-opacity': 0.5, 'line-dasharray': [3, 3] },
    'base-place-names': { 'circle-radius': 1, 'circle-opacity': 0 },
    'base-road-names': { 'line-opacity': 0 },
  };
}

export function tileLayers(names: Set<string>, colour: Colour): LayerSpecification[] {
  const paint = tilePaints(colour);
  const layer = (type: string, source: string, id: string, filter?: unknown) =>
    ({ id, type, source: 'base', 'source-layer': source, paint: paint[id], ...(filter ? { filter } : {}) }) as unknown as LayerSpecification;
  const isPolygon = ['==', ['geometry-type'], 'Polygon'];
  return [
    ...AREAS.filter(([name]) => names.has(name)).map(([name, id]) => layer('fill', name, id, isPolygon)),
    ...LINES.filter(([name]) => names.has(name)).map(([name, id]) => layer('line', name, id)),
    ...NAMED.filter(([name]) => names.has(name)).map(([name, id, type]) => layer(type === 'symbol-line' ? 'line' : 'circle', name, id)),
  ];
}

/** The names in sight, each once; Vietnamese where the tiles carry several. */
export function namesOf(features: MapGeoJSONFeature[]): TileName[] {
  const seen = new Map<string, TileName>();
  for (const { properties, geometry, sourceLayer } of features) {
    const name = (properties['name:vi'] ?? properties.name) as string | undefined;
    if (!name || seen.has(name) || seen.size >= NAMES_MAX) continue;
    const lines = geometry.type === 'LineString' ? [geometry.coordinates] : geometry.type === 'MultiLineString' ? geometry.coordinates : [];
    const at = geometry.type === 'Point' ? geometry.coordinates : lines[0]?.[Math.floor(lines[0].length / 2)];
    if (at) seen.set(name, { name, kind: sourceLayer === 'places' || sourceLayer === 'place' ? 'place' : 'road', point: { lon: at[0], lat: at[1] } });
  }
  return [...seen.values()];
}
