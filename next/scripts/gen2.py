import json,os,random,sys,time,numpy as np,soundfile as sf,librosa
from kok import *
out,n_voices,per,first,seed=sys.argv[1],int(sys.argv[2]),int(sys.argv[3]),int(sys.argv[4]),int(sys.argv[5])
full=session('teacher/kokoro-v1.0.int8.onnx'); k,V=kokoro(split=False); k.sess=Split(full,'f32',1)
rng=random.Random(seed)
kept_out={'af_kore','af_river'} # filled below
man=[json.loads(l) for l in open('../shared/corpus/manifest.jsonl')]
test={x['speaker'] for x in man if x['split']=='test_speaker'}
DEV=['ef_dora','im_nicola','jf_alpha','pm_alex','zf_xiaobei','hm_omega']
names=[v for v in sorted(V) if v not in test and v not in DEV]
if seed==77: voices=[(v,V[v],'us') for v in DEV]
else: voices=[(v,V[v],'gb' if v[0]=='b' else 'us') for v in names]
while len(voices)<n_voices:
    a,b,c,d=rng.sample(names,4); w=rng.uniform(.15,.85); e=rng.uniform(.25,.6)
    voices.append((f"{'dev' if seed==77 else 'mixb'}{len(voices):03d}_{a[1]}",(w*V[a]+(1-w)*V[b]+e*(V[c]-V[d])).astype(np.float32),'gb' if a[0]=='b' else 'us'))
sent=[l.rstrip('\n').split('\t')[1] for l in open('../shared/teacher/sentences.tsv')]
used={x['text'] for x in man}|{json.loads(l)['text'] for l in open('runs/mix/manifest.jsonl')}; held={l.strip() for l in open('../shared/heldout/sentences.txt')}
rows=[i for i in range(first,len(sent)) if i%50 not in(0,1) and sent[i] not in used and sent[i] not in held and 12<=len(sent[i])<=90]
rng.shuffle(rows)
os.makedirs(f'{out}/clips',exist_ok=True)
done={json.loads(l)['id'] for l in open(f'{out}/manifest.jsonl')} if os.path.exists(f'{out}/manifest.jsonl') else set()
with open(f'{out}/manifest.jsonl','a') as m:
    for j in range(per):
        for n,(name,style,lang) in enumerate(voices):
            row=rows[j*n_voices+n]
            if row in done: continue
            try: w,sr=k.create(sent[row],voice=style,speed=rng.choice([.9,.95,1,1,1.05,1.1,1.15]),lang='en-'+lang)
            except Exception as x: print(row,x); continue
            w=librosa.effects.trim(librosa.resample(w,orig_sr=sr,target_sr=16000),top_db=45)[0]
            if not np.isfinite(w).all() or np.abs(w).max()<1e-3 or len(w)<8000: continue
            sf.write(f'{out}/clips/{row}.ogg',w/np.abs(w).max()*.7,16000,format='OGG',subtype='OPUS')
            m.write(json.dumps({'id':row,'text':sent[row],'speaker':name,'seconds':round(len(w)/16000,2),'split':'train','audio':f'clips/{row}.ogg'})+'\n'); m.flush()
