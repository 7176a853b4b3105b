// Owns how a technician's page is written into its address and read back. Pure: a link is all it knows.
import type { DeviceState, Kind } from './api';

export type Page =
  | { page: 'status'; filter: Filter }
  | { page: 'map'; layer: 'devices' | 'lamps'; site?: string }
  | { page: 'places'; by: 'area' | 'street' | 'site'; open?: string }
  | { page: 'lighting'; area?: string; month?: string }
  | { page: 'device'; id: string }
  | { page: 'orders'; stage: 'open' | 'closed' | 'all' }
  | { page: 'order'; id: string }
  | { page: 'report'; area?: string; month?: string }
  | { page: 'unknown' };

/** Which devices are listed; what is wrong, where nothing else is said. */
export interface Filter {
  kind?: Kind;
  state: DeviceState | 'wrong' | 'all';
  area?: string;
  q?: string;
}

const KINDS = ['camera', 'lamp', 'gate'] as const;
const STATES = ['working', 'degraded', 'not_recording', 'unreachable', 'maintenance', 'all'] as const;
const one = <T extends string>(all: readonly T[], text: string | null) => all.find((word) => word === text);

export function readPage(path: string, query: URLSearchParams): Page {
  const [head, id, rest] = path.replace(/^\/fleet\/?/, '').split('/').filter(Boolean);
  if (rest !== undefined) return { page: 'unknown' };
  if (head === 'devices' && id) return { page: 'device', id };
  if (head === 'orders' && id) return { page: 'order', id };
  if (id !== undefined) return { page: 'unknown' };
  switch (head) {
    case undefined:
      return { page: 'status', filter: readFilter(query) };
    case 'map':
      return { page: 'map', layer: query.get('layer') === 'lamps' ? 'lamps' : 'devices', ...named('site', query) };
    case 'places':
      return { page: 'places', by: one(['area', 'street', 'site'] as const, query.get('by')) ?? 'area', ...named('open', query) };
    case 'orders':
      return { page: 'orders', stage: one(['open', 'closed', 'all'] as const, query.get('stage')) ?? 'open' };
    case 'lighting':
    case 'report': {
      const month = /^\d{4}-(0[1-9]|1[0-2])$/.exec(query.get('month') ?? '')?.[0];
      return { page: head, ...named('area', query), ...(month ? { month } : {}) };
    }
    default:
      return { page: 'unknown' };
  }
}

function named<K extends string>(key: K, query: URLSearchParams): { [P in K]?: string } {
  const value = query.get(key);
  return (value ? { [key]: value } : {}) as { [P in K]?: string };
}

function readFilter(query: URLSearchParams): Filter {
  const kind = one(KINDS, query.get('kind'));
  return { state: one(STATES, query.get('state')) ?? 'wrong', ...(kind ? { kind } : {}), ...named('area', query), ...named('q', query) };
}

export function writePage(page: Page): string {
  const query = new URLSearchParams();
  const put = (key: string, value: string | undefined, usual?: string) => {
    if (value && value !== usual) query.set(key, value);
  };
  let path = '/fleet';
  switch (page.page) {
    case 'status':
      put('kind', page.filter.kind);
      put('state', page.filter.state, 'wrong');
      put('area', page.filter.area);
      put('q', page.filter.q);
      break;
    case 'map':
      path += '/map';
      put('layer', page.layer, 'devices');
      put('site', page.site);
      break;
    case 'places':
      path += '/places';
      put('by', page.by, 'area');
      put('open', page.open);
      break;
    case 'device':
      path += `/devices/${page.id}`;
      break;
    case 'orders':
      path += '/orders';
      put('stage', page.stage, 'open');
      break;
    case 'order':
      path += `/orders/${page.id}`;
      break;
    case 'lighting':
    case 'report':
      path += `/${page.page}`;
      put('area', page.area);
      put('month', page.month);
      break;
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export const toDevice = (id: string) => writePage({ page: 'device', id });
export const toOrder = (id: string) => writePage({ page: 'order', id });
export const toLighting = () => writePage({ page: 'lighting' });
export const toStatus = (filter: Partial<Filter> = {}) => writePage({ page: 'status', filter: { state: 'wrong', ...filter } });

/** The months that a report can be of, newest first, where people are: `2026-11`. */
export function months(now: Date, count: number): string[] {
  const local = new Date(now.getTime() + 7 * 3600_000);
  return Array.from({ length: count }, (_, ago) => new Date(Date.UTC(local.getUTCFullYear(), local.getUTCMonth() - ago, 1)).toISOString().slice(0, 7));
}
