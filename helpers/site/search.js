// All words of the query must occur; titles count more than text. PAGES comes from pages.js, so that it works offline.
const field = document.getElementById("search"), list = document.getElementById("found");
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const score = (page) => {
    const title = page.title.toLowerCase(), text = page.text.toLowerCase();
    return words.every((w) => title.includes(w) || text.includes(w)) ? words.filter((w) => title.includes(w)).length + 1 : 0;
  };
  const hits = words.length ? PAGES.filter(score).sort((a, b) => score(b) - score(a)).slice(0, 12) : [];
  list.replaceChildren(...hits.map((page) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = UP + page.url;
    link.textContent = page.title;
    item.append(link);
    return item;
  }));
  list.hidden = !words.length;
});
