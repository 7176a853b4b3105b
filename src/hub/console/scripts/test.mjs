// Owns running the unit tests: bundles each test with esbuild and hands it to node's own test runner.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const out = join(root, 'node_modules', '.cache', 'camnet-test');
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

const tests = readdirSync(join(root, 'test')).filter((name) => name.endsWith('.test.ts'));
await build({
  entryPoints: tests.map((name) => join(root, 'test', name)),
  outdir: out,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node18',
  packages: 'external',
});
const files = tests.map((name) => join(out, name.replace('.ts', '.mjs')));
const run = spawnSync(process.execPath, ['--test', ...files], { stdio: 'inherit', cwd: root, timeout: 120_000 });
process.exit(run.status ?? 1);
