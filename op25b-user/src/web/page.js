// Reads the page anew and puts in place what has changed; nothing of it is run, and what has the focus keeps it.
"use strict";
(() => {
  const EVERY = 5000;
  const stale = document.getElementById("stale");
  const main = document.getElementById("content");

  function adopt(fresh) {
    const open = new Set([...main.querySelectorAll("details[open]")].map((details) => details.id));
    for (const details of fresh.querySelectorAll("details")) details.open = open.has(details.id);
    const ids = (parent) => [...parent.children].map((child) => child.id).join();
    if (ids(main) !== ids(fresh)) {
      main.replaceChildren(...fresh.children);
      return;
    }
    for (const section of [...fresh.children]) {
      const old = document.getElementById(section.id);
      if (old.isEqualNode(section)) continue;
      const places = [...old.querySelectorAll("[tabindex], summary, a")];
      const place = places.indexOf(document.activeElement);
      const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      old.replaceWith(section);
      section.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
      if (place >= 0) [...section.querySelectorAll("[tabindex], summary, a")][place]?.focus({ preventScroll: true });
    }
  }

  async function look() {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(EVERY) });
        const text = await answer.text();
        const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("content");
        if (!fresh) throw new Error("not the page");
        adopt(fresh);
        stale.hidden = true;
        main.classList.remove("old");
      } catch {
        stale.hidden = false;
        main.classList.add("old");
      }
    }
    setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
})();
