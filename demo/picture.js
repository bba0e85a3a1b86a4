// Runs in gr.HTML's js_on_load: `element`, `props`, `trigger` and `watch` are Gradio's.
const figure = element.querySelector('.picture'), svg = 'http://www.w3.org/2000/svg';
let until = Infinity, cursor = 0, frame = null, plane, head, picked, told, drag = null;

const player = () => document.querySelector(`#${props.player} audio`);
const percent = seconds => `${100 * seconds / props.value.seconds}%`;
const clamp = seconds => Math.min(props.value.seconds, Math.max(0, seconds));

function make(name, kind, parent, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    parent?.append(made);
    return made;
}
function draw() {
    const value = props.value;
    figure.hidden = !value;
    figure.replaceChildren();
    if (!value) return;
    const scroll = make('div', 'scroll', figure);
    plane = make('div', 'plane', scroll);
    plane.style.width = `${Math.round(70 * value.seconds)}px`;
    plane.tabIndex = 0;
    plane.setAttribute('role', 'slider');
    plane.setAttribute('aria-label', said('Place in the sound: arrow keys move, Enter plays'));
    plane.setAttribute('aria-valuemin', 0);
    plane.setAttribute('aria-valuemax', value.seconds.toFixed(2));
    const wave = document.createElementNS(svg, 'svg'), path = document.createElementNS(svg, 'path');
    wave.setAttribute('class', 'wave');
    wave.setAttribute('viewBox', `0 0 ${value.wave.length} 200`);
    wave.setAttribute('preserveAspectRatio', 'none');
    path.setAttribute('d', value.wave.map((p, i) => `M${i + 0.5} ${99 - 0.92 * p}V${101 + 0.92 * p}`).join(''));
    path.setAttribute('stroke', 'currentColor');
    path.setAttribute('stroke-width', 1.6);
    path.setAttribute('vector-effect', 'non-scaling-stroke');
    wave.append(path);
    plane.append(wave);
    const mel = make('img', 'mel', plane);
    mel.src = value.mel;
    mel.alt = said('Spectrogram: time to the right, frequency upwards');
    const tokens = make('div', 'tokens', plane);
    for (const run of value.runs) {
        const image = make('img', '', tokens);
        image.src = run.image;
        image.alt = said('{0} tokens', run.codes.length);
        image.style.left = percent(run.begin);
        image.style.width = percent(run.codes.length / props.rate);
    }
    for (const part of value.parts) if (part.begin > 0) make('div', 'border', plane).style.left = percent(part.begin);
    picked = make('div', 'picked', plane);
    head = make('div', 'head', plane);
    new ResizeObserver(() => {  // a finger picks where there is nothing to scroll sideways
        const fits = scroll.scrollWidth <= scroll.clientWidth;
        scroll.style.touchAction = props.selectable && fits ? 'pan-y' : 'auto';
    }).observe(scroll);
    const foot = make('figcaption', 'foot', figure);
    for (const part of value.parts) {
        const button = make('button', '', foot, `▶ ${said(part.name)} ${(part.end - part.begin).toFixed(1)} s`);
        button.type = 'button';
        button.addEventListener('click', () => play(part.begin, part.end));
    }
    told = make('span', '', foot);
    move(0);
    told.textContent = resting();
    plane.addEventListener('pointermove', event => {
        tell(place(event));
        if (drag !== null && props.selectable) pick(drag, place(event));
    });
    plane.addEventListener('pointerleave', () => { told.textContent = resting(); });
    plane.addEventListener('pointerdown', event => {
        if (event.button) return;
        drag = place(event);
        plane.setPointerCapture(event.pointerId);  // so that a drag past the end is heard of
    });
    plane.addEventListener('pointercancel', () => { drag = null; });  // a finger that scrolls
    plane.addEventListener('pointerup', event => {
        if (drag === null) return;
        const to = place(event), dragged = Math.abs(to - drag) > 1.5 / props.rate;
        if (dragged && props.selectable) trigger('pick', pick(drag, to));
        else if (player()?.paused === false) player().pause();
        else play(to, Infinity);
        drag = null;
    });
    plane.addEventListener('keydown', event => {
        const step = {ArrowLeft: -1, ArrowRight: 1, PageDown: -25, PageUp: 25}[event.key];
        if (step) move(clamp(cursor + step / props.rate)), tell(cursor);
        else if (event.key === 'Enter' || event.key === ' ') play(cursor, Infinity);
        else return;
        event.preventDefault();
    });
}
function place(event) {
    const box = plane.getBoundingClientRect();
    return clamp((event.clientX - box.left) / box.width * props.value.seconds);
}
function resting() {
    const count = props.value.runs.reduce((sum, run) => sum + run.codes.length, 0);
    const seconds = props.value.seconds.toFixed(1);
    return props.selectable ? said('{0} tokens in {1} s; drag to pick, click to play from there', count, seconds)
        : said('{0} tokens in {1} s; click to play from there', count, seconds);
}
function tell(seconds) {
    let first = 0;
    for (const run of props.value.runs) {
        const index = Math.floor((seconds - run.begin) * props.rate);
        if (index >= 0 && index < run.codes.length) {
            const values = [first + index, seconds.toFixed(2), run.codes[index]];
            told.textContent = said('token {0} at {1} s: code {2}', ...values);
            return;
        }
        first += run.codes.length;
    }
    const clip = props.value.parts.find(part => part.name === 'Clip'), at = seconds.toFixed(2);
    told.textContent = clip && seconds < clip.end ? said('{0} s: past the part of the clip that the model was given', at)
        : said('{0} s: silence between two pieces', at);
}
function pick(from, to) {
    const [begin, end] = [Math.min(from, to), Math.max(from, to)].map(s => s * props.rate);
    const range = {begin: Math.floor(begin), end: Math.min(Math.ceil(end), Math.round(props.value.seconds * props.rate))};
    mark(range.begin, range.end);
    return range;
}
function mark(begin, end) {
    picked.style.left = percent(begin / props.rate);
    picked.style.width = percent((end - begin) / props.rate);
}
function move(seconds) {
    cursor = seconds;
    head.style.left = percent(seconds);
    head.style.opacity = seconds > 0 ? 1 : 0;
    plane.setAttribute('aria-valuenow', seconds.toFixed(2));
}
function play(begin, end) {
    const sound = player();
    if (!sound) return;
    sound.currentTime = begin;
    until = end;
    sound.play();
}
function follow() {
    const sound = player();
    if (!sound || !props.value) return;
    if (sound.currentTime >= until) {
        sound.pause();
        until = Infinity;
    }
    move(clamp(sound.currentTime));
    frame = sound.paused ? null : requestAnimationFrame(follow);
}
// sound events do not bubble, but they can be caught on their way down
document.addEventListener('play', event => {
    if (event.target !== player()) return;
    if (!frame) frame = requestAnimationFrame(follow);
}, true);
document.addEventListener('pause', event => { if (event.target === player()) until = Infinity; }, true);
watch('value', draw);
onLanguage(draw);
draw();
