// Runs in gr.HTML's js_on_load: `element`, `props` and `watch` are Gradio's.
const box = element.querySelector('.takes'), svg = 'http://www.w3.org/2000/svg', sound = new Audio();
let playing = null;

const address = path => `${window.gradio_config.root}${window.gradio_config.api_prefix ?? '/gradio_api'}/file=${path}`;

function make(name, kind, parent, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
}
function wave(peaks, parent) {
    const drawn = document.createElementNS(svg, 'svg'), path = document.createElementNS(svg, 'path');
    drawn.setAttribute('viewBox', `0 0 ${peaks.length} 200`);
    drawn.setAttribute('preserveAspectRatio', 'none');
    drawn.setAttribute('aria-hidden', true);
    path.setAttribute('d', peaks.map((p, i) => `M${i + 0.5} ${98 - 0.9 * p}V${102 + 0.9 * p}`).join(''));
    path.setAttribute('stroke', 'currentColor');
    path.setAttribute('stroke-width', 1.4);
    path.setAttribute('vector-effect', 'non-scaling-stroke');
    drawn.append(path);
    parent.append(drawn);
}
function draw() {
    const {columns = [], rows = []} = props.value || {};
    const focused = box.contains(document.activeElement) ? document.activeElement.dataset.path : null;
    box.replaceChildren();
    if (!rows.length) return;  // the style shows what the template says of it
    const table = make('table', '', box), top = make('tr', '', make('thead', '', table)), body = make('tbody', '', table);
    make('th', '', top, '').append(hidden(said('Play')));
    make('th', '', top, '').append(hidden(said('Wave')));
    make('th', '', top, '').append(hidden(said('What')));
    for (const column of [...columns.map(column => said(column)), said('Seconds')]) make('th', 'number', top, column);
    for (const row of rows) {
        const line = make('tr', row.best ? 'best' : '', body);
        const button = make('button', '', make('td', '', line));
        button.type = 'button';
        button.dataset.path = row.path;
        button.setAttribute('aria-label', said('Play {0}', row.title));
        button.addEventListener('click', () => toggle(row.path));
        wave(row.peaks, make('td', '', line));
        const title = make('td', 'title', line, row.title);
        if (row.note) make('small', '', title, said(row.note));
        for (const cell of row.cells) make('td', 'number', line, cell);
        make('td', 'number', line, row.seconds.toFixed(1));
    }
    paint();
    if (focused) box.querySelector(`button[data-path="${CSS.escape(focused)}"]`)?.focus();
}
function hidden(text) {
    const made = document.createElement('span');
    made.textContent = text;
    made.style.cssText = 'position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden';
    return made;
}
function paint() {
    for (const button of box.querySelectorAll('button')) {
        const on = button.dataset.path === playing;
        button.textContent = on ? '■' : '▶';
        button.classList.toggle('playing', on);
    }
}
function toggle(path) {
    if (playing === path) {
        sound.pause();
        return;
    }
    sound.src = address(path);
    playing = path;
    sound.play().catch(() => {
        if (playing !== path) return;  // another was pressed before this one had come
        playing = null;
        paint();
    });
    paint();
}
for (const over of ['ended', 'pause']) sound.addEventListener(over, () => { playing = null; paint(); });
watch(['value', 'label'], draw);
onLanguage(draw);
draw();
