// Owns how the console is built: one bundle for the hub to embed, the map in a chunk of its own.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: 'es2022',
    // Inlined assets would be data: fonts, which the hub's content policy refuses.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1200,
  },
  // `npm run dev` beside a hub that runs on its default address.
  server: { proxy: { '/api': 'http://127.0.0.1:8080' } },
});
