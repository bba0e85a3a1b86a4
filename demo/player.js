// Runs in gr.HTML's js_on_load: `element`, `props` and `watch` are Gradio's.
let context = null, run = null, taken = 0, end = 0, ready = 0, playing = [], timer = null, stopped = false;

function more() {  // not after a failure, which takes the value away
    return props.value && !props.value.ended;
}
function paint() {
    const live = element.querySelector('.live');
    if (!live || run === null) return;
    const left = Math.max(0, end - context.currentTime), sounds = left > 0 && context.state === 'running' && !stopped;
    live.hidden = false;
    live.classList.toggle('playing', sounds);
    live.querySelector('.words').textContent = stopped ? said('Stopped.')
        : !ready ? said('Waiting for the first sound …')
        : sounds ? said('Playing, {0} s ready', ready.toFixed(1))
        : said(more() ? 'Played {0} s, waiting for more …' : 'Played {0} s', ready.toFixed(1));
    if (stopped || (ready && !left)) timer = clearInterval(timer);
    Object.assign(element.dataset, {chunks: taken, seconds: ready.toFixed(2), playing: sounds});
}
function silence() {
    playing.forEach(source => source.stop());
    playing = [];
    end = 0;
}
function stop() {
    stopped = true;
    silence();
    paint();
}
function play(base64) {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const samples = Float32Array.from(new Int16Array(bytes.buffer), s => s / 32768);
    if (!samples.length) return;
    const buffer = context.createBuffer(1, samples.length, props.rate), source = context.createBufferSource();
    buffer.copyToChannel(samples, 0);
    source.buffer = buffer;
    source.connect(context.destination);
    end = Math.max(end, context.currentTime + 0.1);
    source.start(end);
    end += buffer.duration;
    ready += buffer.duration;
    playing.push(source);
}
document.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (!button) return;
    if (button.id === props.starter) {  // browsers let sound begin in a click only
        context = context || new AudioContext({sampleRate: props.rate});
        context.resume();
        dispatchEvent(new CustomEvent('sound'));
    } else if (props.stoppers.includes(button.id) && run !== null) stop();
});
addEventListener('sound', event => {  // one at a time, also where the next chunk is still being made
    if (event.detail && run !== null && (end > context.currentTime || more())) stop();
});
watch('value', () => {
    const value = props.value;
    if (!value || !value.run) {  // it was refused: no sound will come
        if (ready) return;
        run = null;
        timer = clearInterval(timer);
        element.querySelector('.live').hidden = true;
        return;
    }
    context = context || new AudioContext({sampleRate: props.rate});
    if (value.run !== run) {
        silence();
        [run, taken, ready, stopped] = [value.run, 0, 0, false];
    }
    for (; taken < value.chunks.length; taken++) if (!stopped) play(value.chunks[taken]);
    timer = timer || setInterval(paint, 200);
    paint();
});
onLanguage(paint);
