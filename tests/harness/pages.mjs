// The pages of the index in a real browser: node pages.mjs BTFS CHROMIUM PLAYWRIGHT-CORE [PICTURES]
//
// Starts a tracker of its own on loopback, fills it, and does what people do: search, filter, look, copy, upload. Names of the
// corpus are in it; no script of theirs may run, nothing may be asked of another host, and the console must stay silent.
// PICTURES is a directory for screenshots: light, dark, and as wide as a phone.

import { spawn, execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

const [btfs, chromium, playwright, pictures] = process.argv.slice(2);
const browsers = createRequire(path.resolve(playwright) + "/")("./index.js");
const corpus = path.resolve(import.meta.dirname, "../corpus/torrents");
const room = fs.mkdtempSync(path.join(os.tmpdir(), "btfs-pages-"));
const env = { ...process.env, HOME: room, XDG_STATE_HOME: path.join(room, "state") };
const run = (...args) => execFileSync(btfs, args, { env, cwd: room, encoding: "utf8" }).trim();
// Enough to see what it looks like: pictures weigh more than all pages.
const KEPT = ["home-light", "search-dark", "torrent-light", "search-phone", "torrent-phone", "statistics-dark"];
const assert = (condition, what) => { if (!condition) throw new Error(what); };

const NAMES = [
  ["debian-12.8.0-amd64-netinst.iso", 6, 40, 3], ["Big Buck Bunny (2008) 4K", 30, 12, 2], ["Sintel – Durian Open Movie", 24, 3, 5],
  ["ubuntu-24.04.1-desktop-amd64.iso", 50, 130, 21], ["Wikipedia 2026-10 (English, no pictures)", 90, 7, 1],
  ["映画の歴史 – 資料集", 12, 0, 4], ["Elephants Dream", 8, 1, 0], ["NASA Apollo 11 – audio, restored", 15, 22, 3],
  ["OpenStreetMap planet 2026-11-16.osm.pbf", 75, 18, 9], ["Project Gutenberg – Collected Works", 10, 0, 0],
  ["Cosmos Laundromat – First Cycle", 20, 5, 1], ["blender-4.5.3-linux-x64.tar.xz", 9, 64, 2], ["Arabic poems – ديوان الشعر", 4, 2, 0],
];

async function fill(addr, token) {
  for (const file of fs.readdirSync(corpus).filter((file) => file.startsWith("v"))) {
    const body = fs.readFileSync(path.join(corpus, file));
    const answer = await fetch(`http://${addr}/api/torrents`, { method: "POST", body, headers: { authorization: `Bearer ${token}` } });
    assert(answer.ok, `${file}: ${await answer.text()}`);
  }
  for (const [name, pieces] of NAMES) {
    const single = /\.(iso|pbf|xz)$/.test(name);
    const content = path.join(room, name);
    if (single) {
      fs.writeFileSync(content, Buffer.alloc(pieces * 65536, name));
    } else {
      for (const file of ["feature/part 1.mkv", "feature/part 2.mkv", "extras/making of.mkv", "extras/stills/01.jpg", "readme.txt"]) {
        fs.mkdirSync(path.dirname(path.join(content, file)), { recursive: true });
        fs.writeFileSync(path.join(content, file), Buffer.alloc(pieces * 13000, file));
      }
    }
    run("create", content, "-o", name + ".torrent", "-a", `http://${addr}/announce`, "-c", `${name}\nMade for a picture.`);
    run("publish", name + ".torrent", "--to", `http://${addr}`, "--token", token);
  }
}

async function announce(addr) {
  const found = await (await fetch(`http://${addr}/api/torrents?sort=newest&page=1`)).json();
  const pages = Math.ceil(found.total / found.per_page);
  for (let page = 1; page <= pages; page += 1) {
    const { torrents } = await (await fetch(`http://${addr}/api/torrents?sort=newest&page=${page}`)).json();
    for (const { info_hash: hash, name } of torrents) {
      const [, , seeds, leechers] = NAMES.find(([known]) => known === name) ?? [];
      for (let peer = 0; peer < (seeds ?? 0) + (leechers ?? 0); peer += 1) {
        const raw = hash.replace(/../g, "%$&");
        const left = peer < seeds ? 0 : 5;
        await fetch(`http://${addr}/announce?info_hash=${raw}&peer_id=-XX0001-${String(peer).padStart(12, "0")}&port=${1000 + peer}&left=${left}`);
      }
    }
  }
}

// What searches filter by may be some seconds old.
async function settle(addr) {
  for (let trial = 0; trial < 200; trial += 1) {
    const { total } = await (await fetch(`http://${addr}/api/torrents?min_seeds=100`)).json();
    if (total === 1) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("no torrent has its seeds");
}

async function drive(addr, token) {
  const home = `http://${addr}`;
  const browser = await browsers.chromium.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  const troubles = [];
  const open = async (options) => {
    const context = await browser.newContext({ viewport: { width: 1200, height: 860 }, ...options });
    const page = await context.newPage();
    page.on("console", (line) => troubles.push(`console: ${line.text()} at ${page.url()}`));
    page.on("pageerror", (error) => troubles.push(`error: ${error}`));
    page.on("dialog", (dialog) => { troubles.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
    page.on("request", (request) => { if (!request.url().startsWith(home)) troubles.push(`asks ${request.url()}`); });
    return page;
  };
  const picture = async (page, name) => {
    if (pictures && KEPT.includes(name)) await page.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: false });
  };
  try {
    const page = await open({ colorScheme: "light" });
    await page.goto(home);
    await picture(page, "home-light");

    // Search by the keyboard alone.
    await page.keyboard.press("/");
    await page.keyboard.type("untu iso");
    await page.keyboard.press("Enter");
    await page.waitForURL(/q=untu/);
    assert(!page.url().includes("min_size"), `empty fields stand in ${page.url()}`);
    assert(await page.locator(".torrents tbody tr").count() === 1, "one result");
    await page.selectOption("select[name=sort]", "newest");
    await page.waitForURL(/sort=newest/);
    await page.goto(`${home}/?min_seeds=1&sort=seeds`);
    assert((await page.locator(".torrents .name a").first().textContent()).startsWith("ubuntu"), "most seeds first");
    await picture(page, "search-light");
    await page.goto(`${home}/?q=nothing+like+this`);
    assert(await page.getByText("Nothing fits").isVisible(), "an empty search says so");

    // A torrent, its links and its copy button.
    await page.goto(`${home}/?q=bunny`);
    await page.locator(".torrents .name a").first().click();
    assert(await page.locator("h1").textContent() === "Big Buck Bunny (2008) 4K", "its page");
    assert(await page.locator("svg.chart").isVisible(), "a chart");
    await page.locator("[data-copy=mount]").click();
    assert(await page.locator("[data-copy=mount]").textContent() === "Copied", "it is copied");
    await page.waitForFunction(() => document.querySelector("[data-copy=mount]").textContent === "Copy");
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator(".button.first").click()]);
    const saved = path.join(room, "saved.torrent");
    await download.saveAs(saved);
    assert(fs.readFileSync(saved).equals(fs.readFileSync(path.join(room, "Big Buck Bunny (2008) 4K.torrent"))), "byte for byte");
    await picture(page, "torrent-light");

    // Uploads: a wrong token, no torrent, a good one.
    const upload = async (secret, file) => {
      await page.goto(`${home}/upload`);
      await page.fill("#token", secret);
      await page.setInputFiles("#file", file);
      await page.locator("form.form button").click();
      await page.waitForLoadState();
    };
    const quiet = troubles.length;
    await upload("btfs_wrong", saved);
    assert(await page.getByRole("alert").isVisible(), "a wrong token is said to be one");
    const bad = path.join(room, "<img src=x onerror=alert(1)>.torrent");
    fs.writeFileSync(bad, "no torrent");
    await upload(token, bad);
    assert((await page.getByRole("alert").textContent()).includes("no usable torrent"), "a bad file is said to be one");
    // A browser notes each page whose status is above 400.
    troubles.splice(quiet, troubles.length, ...troubles.slice(quiet).filter((line) => !/status of 40[01]/.test(line)));
    await upload(token, saved);
    assert(page.url().endsWith("?uploaded=known"), "known already");
    await picture(page, "upload-light");

    // Every page of every torrent, hostile names among them, with all links that lead to pages.
    const seen = new Set();
    for (let number = 1; ; number += 1) {
      await page.goto(`${home}/?sort=newest&page=${number}`);
      const links = await page.locator(".torrents .name a").evaluateAll((all) => all.map((link) => link.href));
      // Past the end it is the last page once more.
      if (links.every((link) => seen.has(link))) break;
      links.forEach((link) => seen.add(link));
    }
    for (const link of seen) {
      await page.goto(link);
      assert(await page.locator("h1").isVisible(), link);
      assert(await page.evaluate(() => document.querySelectorAll("main script, main img, main iframe, main style").length) === 0, link);
    }
    assert(seen.size > 60, `${seen.size} torrents`);

    for (const [name, options] of [["dark", { colorScheme: "dark" }], ["phone", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }]]) {
      const other = await open(options);
      for (const [what, url] of [["home", "/"], ["search", "/?min_seeds=1&sort=seeds"], ["torrent", new URL([...seen].at(-1)).pathname], ["statistics", "/statistics"], ["upload", "/upload"]]) {
        await other.goto(home + url);
        if (what === "torrent") {
          await other.goto(`${home}/?q=bunny`);
          await other.locator(".torrents .name a").first().click();
        }
        const wide = await other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert(wide <= 0, `${what} is wider than a ${name} by ${wide}`);
        await picture(other, `${what}-${name}`);
      }
      await other.context().close();
    }
    await page.goto(`${home}/statistics`);
    await picture(page, "statistics-light");

    // Without scripts all of it works as well.
    const plain = await open({ javaScriptEnabled: false });
    await plain.goto(home);
    await plain.fill("input[name=q]", "sintel");
    await plain.keyboard.press("Enter");
    await plain.waitForURL(/q=sintel/);
    assert(await plain.locator(".torrents tbody tr").count() === 1, "a search without scripts");
    assert(!await plain.locator("[data-copy]").first().isVisible().catch(() => false), "no button that does nothing");
  } finally {
    await browser.close();
  }
  assert(troubles.length === 0, troubles.join("\n"));
}

const token = run("tracker", "token", "add", "pages");
const server = spawn(btfs, ["tracker", "--json", "--listen", "127.0.0.1:0", "--log", "warn"], { env, cwd: room, stdio: ["ignore", "pipe", "inherit"] });
try {
  const [line] = await new Promise((resolve) => createInterface(server.stdout).once("line", (line) => resolve([line])));
  const addr = JSON.parse(line).listen[0];
  await fill(addr, token);
  await announce(addr);
  await settle(addr);
  await drive(addr, token);
  console.log("the pages work in this browser");
} finally {
  server.kill("SIGTERM");
  fs.rmSync(room, { recursive: true, force: true });
}
