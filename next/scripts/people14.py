"""people14.py FOLDER: clips of 14 people out of pyannote_audio-4.0.7.tar.gz, pocketsphinx-5.1.0.tar.gz and
nodejs-whisper-0.3.1.tgz (test data that those packages carry), unpacked in FOLDER: clips/*.wav. Of a speaker the longest
stretch in which nobody else speaks, up to its quietest place between 3.3 and 5.2 s."""
import sys, glob, os, numpy as np, soundfile
from llasa_lite.audio import load
root=sys.argv[1]; out=root+'/clips'; os.makedirs(out,exist_ok=True)
def cut(w,low=3.3,high=5.2):
    e=np.array([np.square(w[k:k+800]).mean() for k in range(int(low*16000),min(len(w)-800,int(high*16000)),160)])
    return w[:int(high*16000)] if not len(e) else w[:int(low*16000)+160*int(e.argmin())+400]
def save(name,w): soundfile.write(f'{out}/{name}.wav',cut(w),16000); print(name,len(cut(w))/16000)
found={}
P=root+'/pyannote_audio-4.0.7'
for rttm in sorted(glob.glob(P+'/tests/data/*.rttm'))+[P+'/src/pyannote/audio/sample/sample.rttm']:
    turns={}
    for l in open(rttm):
        p=l.split(); 
        if p and p[0]=='SPEAKER': turns.setdefault(p[1],[]).append((float(p[3]),float(p[3])+float(p[4]),p[7]))
    for uri,ts in turns.items():
        f=[x for x in glob.glob(os.path.dirname(rttm)+'/*.wav') if os.path.basename(x)[:-4]==uri]
        if not f: continue
        w=load(f[0])
        for s,e,who in ts:  # what of the turn no other speaks in
            parts=[(s,e)]
            for s2,e2,w2 in ts:
                if w2!=who: parts=[q for a,b in parts for q in ((a,min(b,s2)),(max(a,e2),b)) if q[1]-q[0]>0] if any(s2<b and e2>a for a,b in parts) else parts
            for a,b in parts:
                if b-a>=3.0 and b-a>found.get(who,(0,))[0]: found[who]=(b-a,w[int(a*16000):int(b*16000)],uri)
for who,(n,w,uri) in sorted(found.items()): print(uri,end=' '); save(who,w)
S=root+'/pocketsphinx-5.1.0/test/data/'
save('librivox',load(S+'librivox/sense_and_sensibility_01_austen_64kb-0870.wav'))
raw=np.fromfile(S+'something.raw','<i2').astype(np.float32)/32768; print('something',len(raw)/16000)
raw2=np.fromfile(S+'numbers.raw','<i2').astype(np.float32)/32768; print('numbers',len(raw2)/16000)
c=[load(f) for f in sorted(glob.glob(S+'cards/*.wav'))]; print([len(x)/16000 for x in c]); save('cards',max(c,key=len))
(j,)=glob.glob(root+'/package/cpp/whisper.cpp/bindings/go/samples/jfk.wav'); save('kennedy',load(j))
